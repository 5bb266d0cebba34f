"""Transfer learning of image classifiers in Keras 3, the same on TensorFlow, PyTorch and JAX.

Names are imported when they are first used: `import keras_transfer` itself imports neither Keras nor
any backend.
"""

import importlib
from typing import TYPE_CHECKING, Any

from keras_transfer._version import __version__ as __version__

if TYPE_CHECKING:
    from keras_transfer import callbacks as callbacks
    from keras_transfer import data as data
    from keras_transfer import features as features
    from keras_transfer import optimizers as optimizers
    from keras_transfer.data.loader import Loader as Loader
    from keras_transfer.features import Advice as Advice
    from keras_transfer.features import CacheOptions as CacheOptions
    from keras_transfer.features import FeatureCache as FeatureCache
    from keras_transfer.features import advise as advise
    from keras_transfer.features import fit_linear_head as fit_linear_head
    from keras_transfer.features import frozen_prefix as frozen_prefix
    from keras_transfer.features import rank_backbones as rank_backbones
    from keras_transfer.features import split_model as split_model
    from keras_transfer.layers.about import class_names as class_names
    from keras_transfer.layers.freezing import freeze_backbone as freeze_backbone
    from keras_transfer.layers.freezing import freeze_to as freeze_to
    from keras_transfer.layers.freezing import unfreeze as unfreeze
    from keras_transfer.layers.freezing import unfreeze_from as unfreeze_from
    from keras_transfer.layers.groups import LayerGroup as LayerGroup
    from keras_transfer.layers.groups import layer_groups as layer_groups
    from keras_transfer.layers.table import trainable_table as trainable_table
    from keras_transfer.models.averages import average_weights as average_weights
    from keras_transfer.models.catalogue import describe_backbone as describe_backbone
    from keras_transfer.models.catalogue import list_backbones as list_backbones
    from keras_transfer.models.classifier import classifier as classifier
    from keras_transfer.models.replacement import replace_head as replace_head
    from keras_transfer.models.views import multi_view as multi_view
    from keras_transfer.optimizers import multipliers as multipliers
    from keras_transfer.optimizers.recompiling import recompile as recompile
    from keras_transfer.probabilities import calibration as calibration
    from keras_transfer.probabilities import evaluation as evaluation
    from keras_transfer.rates import schedules as schedules
    from keras_transfer.rates.find import find_lr as find_lr
    from keras_transfer.reports import plots as plots
    from keras_transfer.reports.page import report as report
    from keras_transfer.results.range_test import LRFinderResult as LRFinderResult
    from keras_transfer.results.training import FineTuneResult as FineTuneResult
    from keras_transfer.runs import automatic as automatic
    from keras_transfer.runs import recipes as recipes
    from keras_transfer.runs.fine_tune import fine_tune as fine_tune
    from keras_transfer.saving.exporting import export as export
    from keras_transfer.saving.loading import load_model as load_model
    from keras_transfer.training.averaging import EMA as EMA
    from keras_transfer.training.averaging import SWA as SWA
    from keras_transfer.training.low_rank import LoRA as LoRA
    from keras_transfer.training.phase import Phase as Phase
    from keras_transfer.training.starting_point import L2SP as L2SP

_HOME = {
    "Advice": "results.advice",
    "CacheOptions": "features.cache.cache",
    "EMA": "training.averaging",
    "FeatureCache": "features.cache.cache",
    "FineTuneResult": "results.training",
    "L2SP": "training.starting_point",
    "LRFinderResult": "results.range_test",
    "LayerGroup": "layers.groups",
    "LoRA": "training.low_rank",
    "Loader": "data.loader",
    "Phase": "training.phase",
    "SWA": "training.averaging",
    "advise": "features.advice",
    "average_weights": "models.averages",
    "class_names": "layers.about",
    "classifier": "models.classifier",
    "describe_backbone": "models.catalogue",
    "export": "saving.exporting",
    "find_lr": "rates.find",
    "fine_tune": "runs.fine_tune",
    "fit_linear_head": "features.probe.linear_head",
    "freeze_backbone": "layers.freezing",
    "freeze_to": "layers.freezing",
    "frozen_prefix": "layers.splitting",
    "layer_groups": "layers.groups",
    "list_backbones": "models.catalogue",
    "load_model": "saving.loading",
    "multi_view": "models.views",
    "rank_backbones": "features.ranking",
    "recompile": "optimizers.recompiling",
    "replace_head": "models.replacement",
    "report": "reports.page",
    "split_model": "layers.splitting",
    "trainable_table": "layers.table",
    "unfreeze": "layers.freezing",
    "unfreeze_from": "layers.freezing",
}
_MODULES = {
    "automatic": "runs.automatic",
    "calibration": "probabilities.calibration",
    "callbacks": "callbacks",
    "data": "data",
    "evaluation": "probabilities.evaluation",
    "features": "features",
    "multipliers": "optimizers.multipliers",
    "optimizers": "optimizers",
    "plots": "reports.plots",
    "recipes": "runs.recipes",
    "schedules": "rates.schedules",
}

_PUBLIC = sorted([*_HOME, *_MODULES])
# Without "plots", so that `from keras_transfer import *` needs no matplotlib.
__all__ = [name for name in _PUBLIC if name != "plots"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value = importlib.import_module(f"{__name__}.{_MODULES[name]}")
    elif name in _HOME:
        value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*_PUBLIC, "__version__"]
