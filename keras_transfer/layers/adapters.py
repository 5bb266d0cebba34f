"""Low-rank adapters (LoRA) in layers of a model, for as long as they train."""

import contextlib
import math
from collections import Counter
from collections.abc import Iterator, Sequence

import keras
import numpy as np

from keras_transfer._lib.keras_private.graph import sublayers
from keras_transfer._lib.keras_private.lora import base_kernel, put_back, take_off
from keras_transfer._lib.variables import assign_variables, copy_variables, hold_variables

# Of these alone, no subclasses: what such a one does with its kernel isn't known.
_KINDS = (keras.layers.Dense, keras.layers.EinsumDense)


def adaptable(layer: keras.Layer) -> list[keras.Layer]:
    """Return those of a layer and the layers inside it that can have an adapter.

    These are `Dense` and `EinsumDense` layers of Keras' own that are plain: without quantization,
    constraint of the kernel, or LoRA of their own.
    """
    return [part for part in sublayers(layer) if _is_plain(part)]


def kinds_of(layers: Sequence[keras.Layer]) -> str:
    """Return in words of which classes layers and those inside them are that have weights."""
    parts = {id(part): part for layer in layers for part in sublayers(layer) if part.weights}
    count = Counter(type(part).__name__ for part in parts.values())
    return ", ".join(f"{number} {name}" for name, number in count.most_common()) or "no weights"


def _is_plain(layer: keras.Layer) -> bool:
    return (
        type(layer) in _KINDS
        and layer.built
        and layer.kernel_constraint is None
        and layer.quantization_mode is None
        and not layer.lora_enabled
    )


class Adapters:
    """Adapters of some layers of a model, which are in it inside a block only.

    An adapter adds scale * A @ B to a kernel W, where A has `rank` columns and B as many rows. It
    trains, and W stays. Before and after the block the layers are plain ones. B begins at zero, so that
    the model does at first what it did before. A is drawn by NumPy, the same for every backend.

    With no layers it is a plain model in all that is asked here.

    Args:
        model: the model, which stays as it is until `shown`.
        layers: layers of it, or inside of its layers, as `adaptable` gives them; each once.
        rank: how many columns A has.
        alpha: the scale is alpha / rank.
        seed: decides the values of A.
    """

    def __init__(
        self,
        model: keras.Model,
        layers: Sequence[keras.Layer] = (),
        rank: int = 1,
        alpha: float = 1.0,
        seed: Sequence[int] = (0,),
    ) -> None:
        self.model, self._layers, self._alpha, self._scale = model, list(layers), alpha, alpha / rank
        self.plain = list(model.variables)  # those of the model without adapters
        self._factors: list[tuple[keras.Variable, keras.Variable]] = []
        self._on = False
        rng = np.random.default_rng(list(seed))
        for layer in self._layers:
            layer.enable_lora(rank, lora_alpha=alpha, a_initializer="zeros")
            a, b = layer.lora_kernel_a, layer.lora_kernel_b
            take_off(layer)
            limit = math.sqrt(6 / math.prod(a.shape[:-1]))  # He's, which Keras takes, too
            a.assign(rng.uniform(-limit, limit, a.shape).astype("float32"))
            self._factors.append((a, b))

    @property
    def own(self) -> list[keras.Variable]:
        """The variables of the adapters."""
        return [variable for pair in self._factors for variable in pair]

    @property
    def variables(self) -> list[keras.Variable]:
        """The variables of the model without adapters, in its order, and then those of the adapters."""
        return [*self.plain, *self.own]

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Have the adapters be in the model inside the block, and its layers plain again afterwards.

        What they add is lost then, unless `fold` has come before.
        """
        self._put_on()
        try:
            yield
        finally:
            self._take_off()

    @contextlib.contextmanager
    def hidden(self) -> Iterator[None]:
        """Have the model be plain for a while, inside the block of `shown`, with what the adapters add.

        Where the block gives a kernel other values, they stay: its adapter goes on from adding nothing.
        """
        if not self._on:
            yield
            return
        kernels = self._kernels
        before = hold_variables(kernels)
        merged = self._merged()
        self._take_off()
        assign_variables(kernels, merged)
        try:
            yield
        finally:
            for kernel, held, value, (_, b) in zip(kernels, before, merged, self._factors, strict=True):
                if np.array_equal(keras.ops.convert_to_numpy(kernel), value):
                    kernel.assign(held)
                else:
                    b.assign(np.zeros(b.shape, "float32"))
            self._put_on()

    def weights(self) -> list[np.ndarray]:
        """Return the values that the model has without adapters, with what these add.

        Not in the block of `hidden`, where the model has them.
        """
        merged = dict(zip(map(id, self._kernels), self._merged(), strict=True))
        others = [variable for variable in self.plain if id(variable) not in merged]
        copied = dict(zip(map(id, others), copy_variables(others), strict=True)) | merged
        return [copied[id(variable)] for variable in self.plain]

    def fold(self) -> None:
        """Let the kernels take up what the adapters add, which then add nothing."""
        assign_variables(self._kernels, self._merged())
        self._add_nothing()

    def put(self, weights: Sequence[np.ndarray]) -> None:
        """Give the model values such as `weights` returns; the adapters then add nothing."""
        assign_variables(self.plain, weights)
        self._add_nothing()

    @property
    def _kernels(self) -> list[keras.Variable]:
        return [base_kernel(layer) for layer in self._layers]

    def _merged(self) -> list[np.ndarray]:
        """Return the kernels with what the adapters add, as Keras' layers compute it."""
        ops = keras.ops
        added = (self._scale * ops.matmul(a, b) for a, b in self._factors)
        pairs = zip(self._kernels, added, strict=True)
        found = [ops.cast(ops.add(kernel, more), kernel.dtype) for kernel, more in pairs]
        return [np.array(ops.convert_to_numpy(ops.stop_gradient(each))) for each in found]

    def _add_nothing(self) -> None:
        for _, b in self._factors:
            b.assign(np.zeros(b.shape, "float32"))

    def _put_on(self) -> None:
        for layer, (a, b) in zip(self._layers, self._factors, strict=True):
            put_back(layer, a, b, self._alpha)
        self._on = True

    def _take_off(self) -> None:
        self._on = False
        for layer in self._layers:
            if layer.lora_enabled:
                take_off(layer)
