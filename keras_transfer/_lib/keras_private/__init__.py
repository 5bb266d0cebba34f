"""The private names of Keras that this package leans on, all in one place.

Each function hides one idea that Keras has no public name for. `tests/test_keras_private.py` runs every
one of them, so that a new release of Keras which moves a name fails there, by that name.
"""
