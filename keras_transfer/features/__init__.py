"""Features: what the frozen part of a network makes of images, computed once."""

from keras_transfer.features.advice import advise
from keras_transfer.features.cache.cache import CacheOptions, FeatureCache
from keras_transfer.features.cache.folder import CacheInfo, caches, clear
from keras_transfer.features.extraction import extract
from keras_transfer.features.logme import log_maximum_evidence
from keras_transfer.features.probe.linear_head import cross_validate_head, fit_linear_head
from keras_transfer.features.ranking import rank_backbones
from keras_transfer.layers.splitting import Cut, deepest_cut, frozen_prefix, split_model
from keras_transfer.results.advice import Advice, LayerScore
from keras_transfer.results.ranking import BackboneRanking, HeadScore, RankedBackbone

__all__ = [
    "Advice",
    "BackboneRanking",
    "CacheInfo",
    "CacheOptions",
    "Cut",
    "FeatureCache",
    "HeadScore",
    "LayerScore",
    "RankedBackbone",
    "advise",
    "caches",
    "clear",
    "cross_validate_head",
    "deepest_cut",
    "extract",
    "fit_linear_head",
    "frozen_prefix",
    "log_maximum_evidence",
    "rank_backbones",
    "split_model",
]
