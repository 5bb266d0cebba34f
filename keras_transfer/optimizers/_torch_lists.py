"""What a step does to all variables on torch, in a few operations over lists of tensors."""

from collections.abc import Sequence

import torch


@torch.no_grad()
def take_averages(
    averages: Sequence[torch.Tensor], values: Sequence[torch.Tensor], momentum: torch.Tensor
) -> None:
    """Make each average `momentum` times itself plus (1 - `momentum`) times its value."""
    torch._foreach_mul_(averages, momentum)
    torch._foreach_add_(averages, torch._foreach_mul(values, 1 - momentum))
