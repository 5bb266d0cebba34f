"""The LR range test as a callback: a sweep of rates inside the training step."""

from typing import Any

from keras_transfer.callbacks.leaving import leaving_fit, watch_fit
from keras_transfer.rates.sweep import LRRecorder, Sweep


class LRFinder(LRRecorder):
    """An LR range test inside a `fit` of your own; `keras_transfer.find_lr` is the shorter way.

    While `fit` runs, the rate rises from `min_lr` to `max_lr` with every update, inside the compiled
    step, in an optimizer of its own with the settings of the model's. Training stops after `num_steps`
    updates, or when the loss diverges. When `fit` is left, also by an exception or Ctrl-C, the model's
    variables, metrics, optimizer and training step are as they were when training began. The order of
    the data and the random generators of the process are where `fit` has left them; `find_lr` puts
    those back as well.

    Give `fit` enough epochs: it ends where its data ends. Make the callback before the line of the
    `fit`: this wraps `keras.Model.fit`, as Keras tells no callback of an exception.

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
            sweep, or the model was compiled with `steps_per_execution` above 1.

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

    def __init__(
        self,
        min_lr: float = 1e-7,
        max_lr: float = 1.0,
        num_steps: int = 100,
        *,
        sweep: Sweep = "exponential",
        smoothing: float = 0.98,
        stop_factor: float = 4.0,
    ) -> None:
        super().__init__(
            min_lr, max_lr, num_steps, sweep=sweep, smoothing=smoothing, stop_factor=stop_factor
        )
        watch_fit()

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        model = self.model
        if model.steps_per_execution != 1:
            raise ValueError(
                "model must be compiled with steps_per_execution=1 for LRFinder, as the loss of every "
                "batch is wanted; kt.find_lr sees to that by itself. "
                f"Received: steps_per_execution={model.steps_per_execution}"
            )
        leaving_fit(model).enter_context(self.sweep(model))
