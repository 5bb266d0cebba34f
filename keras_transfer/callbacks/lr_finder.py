"""The LR range test as a callback: a sweep of rates inside the training step."""

from typing import Any

from keras_transfer.layers.guard import guard
from keras_transfer.rates.in_step import SweptStep
from keras_transfer.rates.sweep import LRRecorder


class LRFinder(LRRecorder):
    """An LR range test inside a `fit` of your own; `keras_transfer.find_lr` is the shorter way.

    While `fit` runs, the rate rises from `min_lr` to `max_lr` with every update, inside the compiled
    step, in an optimizer of its own with the settings of the model's. Training stops after `num_steps`
    updates, or when the loss diverges. Give `fit` enough epochs: it ends where its data ends.

    Only the steps see what the sweep changes: between them the model has its own weights, other
    variables and optimizer. So these are as they were when training began wherever `fit` is left, by an
    exception or Ctrl-C, too, and validation and other callbacks meet the model as it was. On TensorFlow
    and PyTorch each step copies the variables to and fro; `find_lr` does that once.

    The training step and the metrics are as before when `fit` ends, or a step raises. Where something
    else raises, such as another callback or, on PyTorch, the data, Keras tells nobody: they are put back
    when the model is trained again, and until then metrics are those of a `fit` that was stopped. The
    order of the data and the random generators of the process are where `fit` has left them; `find_lr`
    puts those back as well.

    Args:
        min_lr: the first rate.
        max_lr: the last rate.
        num_steps: how many updates there are, one a rate.
        sweep: "exponential" or "linear".
        smoothing: the weight of the past in the moving average of the losses, 0 to below 1; 0.98 is
            fastai's.
        stop_factor: stop where the smoothed loss exceeds its lowest value times this.

    Attributes:
        result: an `LRFinderResult`.

    Raises:
        ValueError: an argument has no sensible meaning. In `fit`: the optimizer has no learning rate to
            sweep, the model was compiled with `steps_per_execution` above 1, or another callback drives
            the learning rate, or compiles or trains the model, too.

    Example:
        >>> import keras, numpy as np, keras_transfer as kt
        >>> rng = np.random.default_rng(0)
        >>> x = rng.standard_normal((64, 4))
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        >>> model.compile("sgd", "mse")
        >>> finder = kt.callbacks.LRFinder(1e-4, 10.0, 40)
        >>> history = model.fit(x, x.sum(axis=1), epochs=20, verbose=0, callbacks=[finder])
        >>> 1e-3 < finder.result.suggest() < 1.0
        True

    References:
        Smith, "Cyclical Learning Rates for Training Neural Networks", 2017, section 3.3.
    """

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        model = self.model
        if model.steps_per_execution != 1:
            raise ValueError(
                "model must be compiled with steps_per_execution=1 for LRFinder, as the loss of every "
                "batch is wanted; kt.find_lr sees to that by itself. "
                f"Received: steps_per_execution={model.steps_per_execution}"
            )
        self._trained = model  # to ask the callback for it costs a copy of all weights on JAX
        self._step = SweptStep(model, self.begin)
        guard(model).lend(self._step, self._step.close)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self._trained.train_function is not self._step:
            raise ValueError(
                f"model {self._trained.name!r} must not be compiled or trained while LRFinder sweeps. "
                "Received: a model with another training step"
            )
        super().on_train_batch_begin(batch, logs)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        guard(self._trained).take_back()
