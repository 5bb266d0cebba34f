"""A network as a list of steps: operations of ONNX on named tensors, and what they are given."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

TOLERANCE = 1e-5  # of the norm: so far what computes a network instead of Keras may be from it


class UnknownLayerError(ValueError):
    """A layer, or a setting of one, that has no translation; the message says which."""


class Value(NamedTuple):
    """A tensor of a network.

    Attributes:
        name: what steps call it.
        shape: as Keras has it, with the batch.
        channels_last: of feature maps, whether they are (batch, rows, columns, channels), as in Keras,
            or (batch, channels, rows, columns), in which convolutions are quick.
    """

    name: str
    shape: tuple[Any, ...]
    channels_last: bool = True


@dataclass(eq=False)
class Step:
    """An operation.

    Attributes:
        op: its name in ONNX; or "Affine": the first input times the second plus the third, by channel.
        inputs: names of tensors and of constants.
        output: the name of what it gives.
        attributes: as ONNX has them; of "Affine" the axis of the channels.
    """

    op: str
    inputs: list[str]
    output: str
    attributes: dict[str, Any]


@dataclass
class Steps:
    """Steps in their order, from the tensor `input` to the tensors `outputs`.

    Attributes:
        shape: of a sample of the input.
        steps: the steps.
        constants: arrays by name; float64 where they are to be folded.
        outputs: names of what comes out.
    """

    shape: tuple[int, ...]
    input: str = "input"
    steps: list[Step] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)
    _turned: dict[str, str] = field(default_factory=dict)

    def add(self, op: str, *inputs: Any, **attributes: Any) -> str:
        """Add a step on names or arrays, and return the name of what it gives."""
        named = [each if isinstance(each, str) else self.constant(each) for each in inputs]
        output = f"t{len(self.steps)}"
        self.steps.append(Step(op, named, output, attributes))
        return output

    def constant(self, array: Any) -> str:
        """Keep an array, and return its name."""
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(array)
        return name

    def channels_last(self, value: Value) -> str:
        """Return the name of a tensor as Keras has it."""
        return (
            value.name
            if len(value.shape) != 4 or value.channels_last
            else self._turn(value, (0, 2, 3, 1))
        )

    def channels_first(self, value: Value) -> str:
        """Return the name of feature maps with the channels before rows and columns."""
        return self._turn(value, (0, 3, 1, 2)) if value.channels_last else value.name

    def _turn(self, value: Value, order: tuple[int, ...]) -> str:
        """Return the name of a tensor whose axes are in another order; turned back, it is the first."""
        if value.name not in self._turned:
            turned = self.add("Transpose", value.name, perm=order)
            self._turned |= {value.name: turned, turned: value.name}
        return self._turned[value.name]
