"""Features kept in a folder."""
