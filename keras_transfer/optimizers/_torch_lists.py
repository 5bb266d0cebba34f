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


@torch.no_grad()
def pulled(
    gradients: Sequence[torch.Tensor],
    values: Sequence[torch.Tensor],
    starts: Sequence[torch.Tensor],
    strengths: Sequence[float],
) -> Sequence[torch.Tensor]:
    """Return each gradient with `strengths` times the way of the value from its start."""
    ways = torch._foreach_sub(values, starts)
    torch._foreach_mul_(ways, strengths)
    return torch._foreach_add(gradients, ways)
