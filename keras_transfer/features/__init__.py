"""Features: what the frozen part of a network makes of images, computed once."""

from keras_transfer.features.cache import CacheInfo, FeatureCache, caches, clear
from keras_transfer.features.splitting import Cut, deepest_cut, frozen_prefix, split_model

__all__ = [
    "CacheInfo",
    "Cut",
    "FeatureCache",
    "caches",
    "clear",
    "deepest_cut",
    "frozen_prefix",
    "split_model",
]
