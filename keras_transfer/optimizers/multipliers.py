"""Policies: from the depth of a layer to the multiplier of its learning rate.

Depth is counted over all layers, whether they train or not, so that a layer keeps its rate when others
are frozen or unfrozen. What a policy returns is a dict for `keras_transfer.optimizers.LayerwiseLR` and
`keras_transfer.Phase`, by the paths of all variables, the frozen ones included.
"""

from typing import Literal, get_args

import keras

from keras_transfer._lib.checks import checked_choice, checked_number
from keras_transfer.layers.groups import Split, after_the_stages, layer_groups
from keras_transfer.layers.head import backbone_layers, required_head

Per = Literal["group", "layer"]


class Policy(dict[str, float]):
    """Multipliers by the paths of all variables of a model, of which some may be frozen."""


def geometric(
    model: keras.Model, factor: float = 3.0, *, per: Per = "group", split: Split | None = None
) -> Policy:
    """Divide the learning rate by `factor` from each group to the one before it.

    The last group has multiplier 1, the one k groups before it factor ** -k.

    Args:
        model: a functional or sequential model.
        factor: what the rate is divided by, more than 0; 3 to 10 are usual.
        per: "group" counts the groups of `keras_transfer.layer_groups`, "layer" the backbone's layers
            with weights, one by one, and the head.
        split: groups of your own, as in `keras_transfer.layer_groups`.

    Returns:
        The multipliers.

    Raises:
        ValueError: an argument has no sensible meaning, or the model has no groups.

    Example:
        >>> import keras_transfer as kt
        >>> model = kt.classifier("vgg16", 3, image_size=32, weights=None)
        >>> multipliers = kt.multipliers.geometric(model, factor=10.0)
        >>> multipliers["predictions/kernel"], multipliers["block5_conv3/kernel"]
        (1.0, 0.1)

    References:
        Howard and Ruder, "Universal Language Model Fine-tuning for Text Classification", 2018, section
        3.2, which divides by 2.6.
    """
    checked_number("factor", factor)
    units = _units(model, per, split)
    return _policy(units, [factor ** (index + 1 - len(units)) for index in range(len(units))])


def layer_decay(model: keras.Model, decay: float = 0.75, *, split: Split | None = None) -> Policy:
    """Multiply the learning rate by `decay` from each group to the one before it, as BEiT and MAE do.

    The multiplier of a group is `decay` to the power of the number of groups behind it, the head among
    them. Of a transformer with a stem and N blocks the stem has decay ** (N + 1), block k (of 1 to N)
    decay ** (N + 1 - k), and the last norm and the head 1. It is `geometric` with the factor 1 / decay
    but for that norm, and whatever else stands behind the last stage of a backbone: that has 1, too.
    (timm 1.0 gives that norm the multiplier of the last block, and is the same in all else.)

    Args:
        model: a functional or sequential model with a classification head.
        decay: above 0 and at most 1; usual are 0.65 to 0.75.
        split: groups of your own, as in `keras_transfer.layer_groups`, which count as they are.

    Returns:
        The multipliers.

    Raises:
        ValueError: an argument has no sensible meaning, or the model has no groups or no head.

    Example:
        >>> import keras_transfer as kt
        >>> model = kt.classifier("vgg16", 3, image_size=32, weights=None)
        >>> multipliers = kt.multipliers.layer_decay(model, 0.5)
        >>> multipliers["predictions/kernel"], multipliers["block5_conv3/kernel"]
        (1.0, 0.5)
        >>> multipliers["block1_conv1/kernel"] == 0.5**5
        True

    References:
        Bao et al., "BEiT: BERT Pre-Training of Image Transformers", 2021, appendix. He et al., "Masked
        Autoencoders Are Scalable Vision Learners", 2021, appendix A (0.75 for ViT-L, and 0.65 for ViT-B
        in the authors' code).
    """
    checked_number("decay", decay, high=1, closed="right")
    required_head(model)
    groups = [group.layers for group in layer_groups(model, split=split)]
    if split is None and len(groups) > 1:
        behind = after_the_stages(layer_groups(model)[-2])
        groups[-2:] = [[layer for layer in groups[-2] if layer not in behind], [*behind, *groups[-1]]]
    units = _weighted(groups)
    return _policy(units, [decay ** (len(units) - 1 - index) for index in range(len(units))])


def linear(
    model: keras.Model, lowest: float = 1e-3, *, per: Per = "layer", split: Split | None = None
) -> Policy:
    """Let the learning rate rise linearly from the first layer to the head.

    The i-th of the n weighted layers of the backbone (i = 0 at the input) has multiplier lowest +
    (1 - lowest) * i / n, the head 1.

    Args:
        model: a functional or sequential model with a classification head.
        lowest: the multiplier of the first layer, more than 0.
        per: "layer" counts layers with weights, "group" the groups of `keras_transfer.layer_groups`.
        split: groups of your own, as in `keras_transfer.layer_groups`.

    Returns:
        The multipliers.

    Raises:
        ValueError: an argument has no sensible meaning, or the model has no head.

    Example:
        >>> import keras_transfer as kt
        >>> model = kt.classifier("vgg16", 3, image_size=32, weights=None)
        >>> multipliers = kt.multipliers.linear(model)
        >>> multipliers["block1_conv1/kernel"], multipliers["predictions/kernel"]
        (0.001, 1.0)
    """
    checked_number("lowest", lowest)
    required_head(model)
    units = _units(model, per, split)
    n = len(units) - 1
    return _policy(units, [lowest + (1 - lowest) * i / n for i in range(n)] + [1.0])


def span(
    model: keras.Model, low: float, high: float, *, per: Per = "group", split: Split | None = None
) -> Policy:
    """Let the learning rate rise geometrically from the first group to the last.

    The i-th of n groups has multiplier low * (high / low) ** (i / (n - 1)).

    Args:
        model: a functional or sequential model.
        low: the multiplier of the first group, more than 0.
        high: the multiplier of the last group, more than 0.
        per: as in `geometric`.
        split: as in `geometric`.

    Returns:
        The multipliers.

    Raises:
        ValueError: an argument has no sensible meaning, or the model has no groups.

    Example:
        >>> import keras_transfer as kt
        >>> model = kt.classifier("vgg16", 3, image_size=32, weights=None)
        >>> multipliers = kt.multipliers.span(model, 1e-2, 1.0)
        >>> multipliers["block1_conv1/kernel"], multipliers["predictions/kernel"]
        (0.01, 1.0)
    """
    checked_number("low", low)
    checked_number("high", high)
    units = _units(model, per, split)
    last = max(len(units) - 1, 1)
    inner = [low * (high / low) ** (i / last) for i in range(len(units) - 1)]
    return _policy(units, [*inner, high])


def head(model: keras.Model, factor: float = 10.0) -> Policy:
    """Give the head `factor` times the learning rate of the backbone.

    Args:
        model: a functional or sequential model with a classification head.
        factor: the multiplier of the head, more than 0; the backbone has 1.

    Returns:
        The multipliers.

    Raises:
        ValueError: the factor has no sensible meaning, or the model has no head.

    Example:
        >>> import keras_transfer as kt
        >>> model = kt.classifier("vgg16", 3, image_size=32, weights=None)
        >>> multipliers = kt.multipliers.head(model)
        >>> multipliers["block1_conv1/kernel"], multipliers["predictions/kernel"]
        (1.0, 10.0)
    """
    checked_number("factor", factor)
    return _policy([backbone_layers(model), required_head(model)], [1.0, factor])


def _units(model: keras.Model, per: Per, split: Split | None) -> list[list[keras.Layer]]:
    """Return what depth is counted in, from input to output."""
    checked_choice("per", per, get_args(Per))
    units = []
    for group in layer_groups(model, split=split):
        together = per == "group" or group.name == "head"
        units += [group.layers] if together else [[layer] for layer in group.layers]
    return _weighted(units)


def _weighted(units: list[list[keras.Layer]]) -> list[list[keras.Layer]]:
    return [unit for unit in units if any(layer.weights for layer in unit)]


def _policy(units: list[list[keras.Layer]], multipliers: list[float]) -> Policy:
    found = Policy()
    for layers, multiplier in zip(units, multipliers, strict=True):
        for layer in layers:
            for variable in layer.weights:
                if found.setdefault(variable.path, multiplier) != multiplier:
                    raise ValueError(
                        "multipliers go by the paths of variables, which must tell them apart; rename "
                        f"the layers. Received: several variables with path {variable.path!r}"
                    )
    return found
