"""Training low-rank adapters in the place of layers (LoRA): what of a model, and how."""

import re
from dataclasses import dataclass
from typing import Any

import keras

from keras_transfer._lib.checks import checked_integer, checked_number
from keras_transfer.layers.adapters import Adapters, adaptable, kinds_of
from keras_transfer.layers.groups import layer_groups
from keras_transfer.layers.head import required_head
from keras_transfer.layers.selection import Selection, checked_selection, described, select

_PREFIX = "lora:"
_TEXT = re.compile(r"lora:(\d+)(?::(.+))?")


@dataclass(frozen=True)
class LoRA:
    """What a phase trains by low-rank adapters: `keras_transfer.Phase(train=LoRA(8))`.

    An adapter adds alpha / rank * A @ B to a kernel, which itself stays as it is. B begins at zero,
    and A is drawn from the seed of the run, alike on every backend. Adapters are Keras' own
    (`layer.enable_lora`), of its `Dense` and `EinsumDense` layers, also where these are inside of
    another such as `MultiHeadAttention`. Other layers, biases and the backbone's batch norm stay as they
    are. The head trains in full. Convolutions and subclasses of those layers can't have adapters.

    They are there in the phase only: at its end the kernels take up what they add, and the layers are
    plain ones. So is all that is kept or written meanwhile: the best weights and what callbacks save.

    As text it is "lora:8", or "lora:8:from:block9" with a name, a pattern or a word for `layers`.

    Attributes:
        rank: how many columns A has, at least 1.
        alpha: how strongly the adapter counts, above 0; None: like `rank`, which makes the factor 1.
        layers: whose kernels get adapters, as `keras_transfer.unfreeze` takes it, without the head's.

    Raises:
        ValueError, TypeError: an attribute has no sensible meaning.

    Example:
        >>> import keras_transfer as kt
        >>> kt.Phase("adapters", 10, train=kt.LoRA(8, layers="from:block9")).train
        LoRA(rank=8, alpha=None, layers='from:block9')

    References:
        Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, section 4.
    """

    rank: int
    alpha: float | None = None
    layers: Selection = "all"

    def __post_init__(self) -> None:
        object.__setattr__(self, "rank", checked_integer("rank", self.rank, 1))
        if self.alpha is not None:
            object.__setattr__(self, "alpha", checked_number("alpha", self.alpha, note=", or None"))
        object.__setattr__(self, "layers", checked_selection(self.layers, "layers"))

    def parts(self, model: keras.Model) -> tuple[list[keras.Layer], list[keras.Layer]]:
        """Return the leaf layers of `model` in which adapters train, and the layers that have them.

        Raises:
            ValueError: no layer that is meant can have one, or the model has no such layers or no head.
        """
        head = {id(layer) for layer in required_head(model)}
        chosen = [
            layer for layer in select(model, self.layers, argument="train") if id(layer) not in head
        ]
        found = {id(part): part for leaf in chosen for part in adaptable(leaf)}
        if not found:
            groups = [group.name for group in layer_groups(model)]
            raise ValueError(
                "LoRA needs Dense or EinsumDense layers of Keras' own, also those inside of "
                "MultiHeadAttention, without quantization, kernel constraint or LoRA; convolutions "
                "can't have adapters. Train layers themselves, such as the last stage by "
                f"train='from:{groups[-2] if len(groups) > 1 else groups[0]}', or choose others by "
                f"kt.LoRA(layers=...). Received: train={self!r}, which means {kinds_of(chosen)} in the "
                f"backbone of model {model.name!r}"
            )
        leaves = [leaf for leaf in chosen if adaptable(leaf)]
        return leaves, list(found.values())

    def adapters(self, model: keras.Model, seed: tuple[int, ...] = (0,)) -> Adapters:
        """Return new adapters for `model`, which aren't in it yet."""
        alpha = float(self.rank) if self.alpha is None else self.alpha
        return Adapters(model, self.parts(model)[1], self.rank, alpha, seed)


def as_lora(train: Any) -> LoRA | None:
    """Return what a phase trains by adapters, or None if it trains layers themselves.

    Raises:
        ValueError: a text begins as that of LoRA and goes on otherwise.
    """
    if isinstance(train, LoRA):
        return train
    if not isinstance(train, str) or not train.startswith(_PREFIX):
        return None
    match = _TEXT.fullmatch(train)
    if match is None:
        raise ValueError(
            "train must be 'lora:<rank>', such as 'lora:8', or 'lora:<rank>:<layers>', such as "
            f"'lora:8:from:block9', for LoRA. Received: train={train!r}"
        )
    return LoRA(int(match[1]), layers=match[2] or "all")


def described_train(train: Selection | LoRA) -> Any:
    """Return what a phase trains as plain data."""
    if not isinstance(train, LoRA):
        return described(train)
    return repr(LoRA(train.rank, train.alpha, described(train.layers)))
