"""A model whose optimizer writes down the learning rate of each of its updates."""

import keras
import numpy as np
from keras import ops

STEPS = 240


@keras.saving.register_keras_serializable(package="tests")
class Probe(keras.optimizers.Optimizer):
    """Plain gradient descent that keeps the rate of every update, whatever runs around it."""

    def build(self, variables):
        if not self.built:
            super().build(variables)
            self.rates = self.add_variable((STEPS,), name="rates")

    def update_step(self, gradient, variable, learning_rate):
        rate = ops.cast(learning_rate, "float32")
        now = ops.equal(ops.arange(STEPS), ops.cast(self.iterations, "int32"))
        self.assign(self.rates, ops.where(now, rate, ops.convert_to_tensor(self.rates)))
        self.assign_sub(variable, ops.multiply(ops.cast(gradient, variable.dtype), rate))


def probed(rate=0.5, *, wrap=None, accumulation=None, **options):
    """Return a compiled model with a probe inside its optimizer."""
    optimizer = Probe(rate, gradient_accumulation_steps=accumulation)
    if wrap is not None:
        optimizer = wrap(optimizer)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False, name="dense")])
    model.compile(optimizer, "mse", auto_scale_loss=False, **options)
    return model


def data(batches):
    """Return arguments of `fit` for epochs of this many batches."""
    ones = np.ones((batches, 1), "float32")
    return {"x": ones, "y": ones, "batch_size": 1, "verbose": 0}


def rates(model, first=0, last=None):
    """Return the rates of the updates from `first` on."""
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    last = int(ops.convert_to_numpy(optimizer.iterations)) if last is None else last
    return np.array(ops.convert_to_numpy(optimizer.rates))[first:last]


def expected(schedule, steps, factor=1.0):
    """Return the rates of a schedule at these steps."""
    return [factor * float(ops.convert_to_numpy(schedule(step))) for step in steps]
