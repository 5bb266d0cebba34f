"""Pretrained backbones by name: those of Keras and of KerasHub."""
