"""A learning rate for each tensor of a list, which torch's `_foreach_` functions take as if it were one.

Keras' optimizers for torch update all variables in a few calls that loop over lists of tensors. One such
round for every multiplier would cost a dozen small operations more each, on a GPU a kernel apiece. So
the optimizer gets all rates as one tensor and runs once; only the calls in which a rate meets lists of
tensors are split.
"""

from collections.abc import Sequence
from typing import Any

import torch

_Tensor: Any = torch.Tensor


class Rates(_Tensor):
    """A tensor of shape (groups,) that stands for one rate in calls over lists of tensors.

    Arithmetic goes element by element. A call with lists of tensors is made for each group with its
    own tensors and its own rate. Anything that needs a single number of it is an error in torch.
    """

    _groups: Sequence[Sequence[int]]

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        groups = next(arg._groups for arg in args if isinstance(arg, cls))
        with torch._C.DisableTorchFunctionSubclass():
            if not isinstance(args[0], (list, tuple)):
                result = function(*args, **kwargs)
                return _rates(result, groups) if isinstance(result, torch.Tensor) else result
            whole: list[Any] = [None] * len(args[0])
            for number, group in enumerate(groups):
                own = [_part(arg, number, group) for arg in args]
                for index, part in zip(group, function(*own, **kwargs) or (), strict=False):
                    whole[index] = part
        return whole


def multipliers_of(groups: dict[float, Sequence[int]], device: Any, dtype: str) -> Rates:
    """Return multipliers as one tensor; each has the positions of its tensors in the lists of calls."""
    return _rates(
        torch.tensor([*groups], dtype=getattr(torch, dtype), device=device), [*groups.values()]
    )


def is_compiling() -> bool:
    """Whether this runs inside `torch.compile`."""
    return torch.compiler.is_compiling()


def _part(argument: Any, number: int, group: Sequence[int]) -> Any:
    if isinstance(argument, Rates):
        return argument[number]
    return [argument[i] for i in group] if isinstance(argument, (list, tuple)) else argument


def _rates(tensor: torch.Tensor, groups: Sequence[Sequence[int]]) -> Rates:
    made = tensor.as_subclass(Rates)
    made._groups = groups
    return made
