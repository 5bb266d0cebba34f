"""Vision transformers in stock Keras layers, and their published weights."""
