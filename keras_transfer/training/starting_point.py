"""The penalty that keeps the weights of a backbone near those with which a run begins (L2-SP)."""

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np

from keras_transfer._lib.checks import checked_number
from keras_transfer.layers.head import required_head
from keras_transfer.optimizers.layerwise_lr import Pull


@dataclass(frozen=True)
class L2SP:
    """A penalty on how far a backbone moves from its starting point, and on the size of the head.

    It is alpha / 2 times the squared distance of the backbone's kernels from what they were when the run
    began, whatever phases came before, plus beta / 2 times the squared size of the head's kernels.
    Kernels are variables of two or more axes; biases, also those of attention, scales and offsets are
    free, as in the authors' code.

    A step takes the gradient of it, before clipping; with several rates of layers and any optimizer it
    acts as a part of the loss would. The losses that are reported, in training and validation, are
    without it. Other than weight decay it doesn't pull what pretraining has found towards 0: leave
    `weight_decay` out beside it.

    Attributes:
        alpha: how strongly the kernels of the backbone that train are held, at least 0.
        beta: how strongly those of the head are kept small, at least 0.

    Raises:
        ValueError: `alpha` or `beta` is no such number.

    Example:
        >>> import keras_transfer as kt
        >>> kt.Phase("all", 10, train="all", l2_sp=kt.L2SP(alpha=0.1, beta=0.01)).l2_sp
        L2SP(alpha=0.1, beta=0.01)

    References:
        Li, Grandvalet and Davoine, "Explicit Inductive Bias for Transfer Learning with Convolutional
        Networks", 2018, section 3.
    """

    alpha: float
    beta: float = 0.0

    def __post_init__(self) -> None:
        for name in ("alpha", "beta"):
            object.__setattr__(self, name, checked_number(name, getattr(self, name), closed="left"))

    def pull(self, model: keras.Model, start: Sequence[np.ndarray]) -> Pull:
        """Return what says of a variable of `model` how strongly it is pulled, and to what.

        Args:
            model: the whole model.
            start: for each of its variables the value with which the run began.

        Raises:
            ValueError: the model has no head that can be told from its backbone.
        """
        head = {id(variable) for layer in required_head(model) for variable in layer.weights}
        starts = {id(v): value for v, value in zip(model.variables, start, strict=True)}

        def pull(variable: keras.Variable) -> tuple[float, np.ndarray] | None:
            new = id(variable) in head
            strength = self.beta if new else self.alpha
            if not strength or len(variable.shape) < 2 or variable.name == "bias":
                return None
            return strength, np.zeros(variable.shape, "float32") if new else starts[id(variable)]

        return pull
