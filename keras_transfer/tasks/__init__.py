"""Tasks: what kind of labels a model learns, and all that follows from it."""
