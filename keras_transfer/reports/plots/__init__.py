"""Plots as matplotlib figures; no pyplot state is touched."""

try:
    import matplotlib as _matplotlib  # noqa: F401
except ImportError as error:  # pragma: no cover - the solo test runs this
    raise ImportError("plots need matplotlib: pip install 'keras-transfer[plots]'") from error

from keras_transfer.reports.plots.curves import history, learning_rates, lr_finder, training
from keras_transfer.reports.plots.pictures import show_batch, show_predictions, top_losses
from keras_transfer.reports.plots.scores import compare, confusion_matrix, reliability

__all__ = [
    "compare",
    "confusion_matrix",
    "history",
    "learning_rates",
    "lr_finder",
    "reliability",
    "show_batch",
    "show_predictions",
    "top_losses",
    "training",
]
