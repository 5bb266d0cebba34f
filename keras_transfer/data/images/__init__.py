"""Images: reading and augmenting them."""
