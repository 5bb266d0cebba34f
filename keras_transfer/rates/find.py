"""The LR range test that leaves no trace."""

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import keras
import numpy as np

from keras_transfer import _distribution
from keras_transfer._lib.attributes import warnings_ignored
from keras_transfer._lib.keras_private.trainer import (
    COMPILED_FLAGS,
    COMPILED_METRICS,
    stored_compile_arguments,
)
from keras_transfer._lib.messages import verbosity
from keras_transfer._lib.random_state import random_state_kept
from keras_transfer._lib.untouched_data import untouched
from keras_transfer.data.inputs import check_values, is_arrays
from keras_transfer.data.loader import Loader
from keras_transfer.layers.about import class_names
from keras_transfer.layers.graph import has_graph
from keras_transfer.layers.task import task_of
from keras_transfer.optimizers.recompiling import check_compiled
from keras_transfer.rates.sweep import LRRecorder, Sweep
from keras_transfer.results.range_test import LRFinderResult
from keras_transfer.tasks.class_weights import ClassWeight, check_weighable, checked_class_weight
from keras_transfer.tasks.single_label import SINGLE_LABEL

_WITHOUT_END = 10**9  # epochs; the recorder stops the sweep
_SHOWN = ("learning_rate", "smoothed_loss")  # in the progress bar


def find_lr(
    model: keras.Model,
    data: Any,
    *,
    min_lr: float = 1e-7,
    max_lr: float = 1.0,
    num_steps: int = 100,
    batch_size: int = 32,
    sweep: Sweep = "exponential",
    smoothing: float = 0.98,
    stop_factor: float = 4.0,
    sample_weight: Any = None,
    class_weight: ClassWeight | None = None,
    shuffle: bool = True,
    verbose: str | int = "auto",
) -> LRFinderResult:
    """Find a learning rate: train for some steps at rising rates, and leave no trace of it.

    The model trains with a new optimizer that has the settings of its own, multipliers of a
    `LayerwiseLR` included, and takes one rate after the other. Under gradient accumulation a rate
    holds for a whole update. The sweep ends early where the loss diverges or isn't finite.

    Afterwards, and after an error or Ctrl-C as well, all is bit for bit as before: weights and all
    other variables, seeds of layers included; the optimizer with its slots, steps and learning rate;
    metrics; what was compiled, so that nothing is compiled again; the random generators of Python,
    NumPy, Keras, torch and TensorFlow; and the data, as far as it can be reached:

    - Arrays have no state, and a `PyDataset` is read in a deep copy and without threads of its own (a
      `Loader`'s copy shares its images; give a data set of your own with large arrays a `__deepcopy__`).
    - The generator of a torch `DataLoader` and its samplers is put back, but not what the samples
      are made with inside a data set.
    - A `tf.data.Dataset` that shuffles anew in each pass counts its passes where nothing can reach it:
      the next `fit` goes on with later orders. Stateful operations of TensorFlow count likewise.
    - A generator's batches would be gone, so it is refused: pass the function that makes it.

    Args:
        model: a built and compiled model.
        data: (x, y) arrays, a `Loader`, a `PyDataset`, anything else that `fit` takes as `x`, or a
            function without arguments that returns an iterator of batches and is called again when they
            are used up; no generator or other iterator. Data with fewer batches than the sweep has is
            read again.
        min_lr: the first rate.
        max_lr: the last rate.
        num_steps: how many updates there are, one a rate.
        batch_size: samples a batch, for arrays; other data comes in batches of its own.
        sweep: "exponential" or "linear".
        smoothing: the weight of the past in the moving average of the losses, 0 to below 1; 0.98 is
            fastai's.
        stop_factor: stop where the smoothed loss exceeds its lowest value times this.
        sample_weight: as in `fit`.
        class_weight: as in `keras_transfer.fine_tune`.
        shuffle: whether the samples of arrays, or the batches of a `PyDataset`, are shuffled, as in
            `fit`.
        verbose: 0 is silent, 2 gives lines, "auto" and 1 progress bars where there is a terminal.

    Returns:
        An `LRFinderResult`, with the losses and `suggest()`.

    Raises:
        ValueError, TypeError: the model is not compiled, not built or has nothing to train; its
            optimizer has no learning rate to sweep; an argument has no sensible meaning.

    Example:
        >>> import keras, numpy as np, keras_transfer as kt
        >>> rng = np.random.default_rng(0)
        >>> x = rng.standard_normal((64, 4))
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> result = kt.find_lr(model, (x, x.sum(axis=1)), min_lr=1e-4, max_lr=10.0, verbose=0)
        >>> model.optimizer.learning_rate = result.suggest()
        >>> 1e-3 < float(model.optimizer.learning_rate) < 1.0
        True

    References:
        Smith, "Cyclical Learning Rates for Training Neural Networks", 2017, section 3.3.
    """
    recorder = _ShownRecorder(
        verbose, min_lr, max_lr, num_steps, sweep=sweep, smoothing=smoothing, stop_factor=stop_factor
    )
    _check(model)
    pair = is_arrays(data)
    x, y = data if pair else (data, None)
    weights = _checked_weights(class_weight, model, x, y)
    arrays = pair or hasattr(x, "shape") or isinstance(x, (list, dict))
    has_order = arrays or (isinstance(x, keras.utils.PyDataset) and x.num_batches is not None)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_distribution.scope(model))
        stack.enter_context(random_state_kept(x))
        check_values(x, model, "data")
        stack.enter_context(_compiled_anew(model))
        stack.enter_context(recorder.sweep(model))
        fit_data = None
        if isinstance(x, Loader):
            has_order = False  # to be asked for: a Loader owns it
            fit_data = _distribution.training_data(model, x, weights)
            x, weights = fit_data.x, fit_data.class_weight
        stack.enter_context(_distribution.fitting(model, fit_data))
        x = x if arrays else stack.enter_context(untouched(x))
        # Keras says so of any data of unknown length when it has been read once.
        with warnings_ignored("Your input ran out of data", UserWarning):
            model.fit(
                x,
                y,
                batch_size=batch_size if arrays else None,
                epochs=_WITHOUT_END,
                sample_weight=sample_weight,
                class_weight=weights,
                shuffle=shuffle and has_order,
                callbacks=[recorder],
                verbose=0,
            )
    return recorder.result


def _checked_weights(class_weight: Any, model: keras.Model, x: Any, y: Any) -> dict[int, float] | None:
    """Return weights of classes as `fit` takes them, of which it would pass over those that are none."""
    if class_weight is None or not (has_graph(model) and len(model.outputs) == 1):
        return class_weight
    check_weighable(class_weight, task_of(model))
    count, names = None, class_names(model)
    classes = max(model.output_shape[-1], 2)  # one output tells two apart
    if isinstance(x, Loader):
        count, names = x.class_counts, names or x.class_names
    elif y is not None:
        count = partial(SINGLE_LABEL.counts, np.asarray(y).squeeze(), classes)
    return checked_class_weight(class_weight, classes, names, count)


def _check(model: keras.Model) -> None:
    check_compiled(model)
    if not model.built:
        raise ValueError(
            f"model {model.name!r} is not built; call model.build(...) or the model on a batch first. "
            "Received: a model without weights"
        )
    if not model.trainable_variables:
        raise ValueError(
            f"model {model.name!r} has nothing to train. Received: a model whose layers are all frozen"
        )


@contextlib.contextmanager
def _compiled_anew(model: keras.Model) -> Iterator[None]:
    """Compile `model` with new objects in the place of all that training builds or changes."""
    before = dict(vars(model))
    try:
        arguments = {
            **stored_compile_arguments(model),
            "optimizer": model.optimizer,  # as an object, wrapped for float16 already where it must be
            "auto_scale_loss": False,
            "steps_per_execution": 1,  # the loss of every batch is wanted
        }
        keras.Model.compile(model, **arguments)
        # Metrics aren't wanted, and a guard goes by what was trainable when the user compiled.
        vars(model).update({COMPILED_METRICS: None, COMPILED_FLAGS: before[COMPILED_FLAGS]})
        yield
    finally:
        vars(model).clear()
        vars(model).update(before)


class _ShownRecorder(LRRecorder):
    """A recorder with a progress bar."""

    def __init__(self, verbose: str | int, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        level = verbosity(verbose)
        self._bar = keras.utils.Progbar(len(self.rates), verbose=level, stateful_metrics=_SHOWN)

    def add_point(self, loss: float) -> None:
        super().add_point(loss)
        if self.smoothed_losses:
            count = len(self.smoothed_losses)
            values = zip(_SHOWN, (self.rates[count - 1], self.smoothed_losses[-1]), strict=True)
            self._bar.update(count, list(values), finalize=self.stopped != "interrupted")
