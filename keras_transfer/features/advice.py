"""What to freeze and how fast to train the rest, by the size of a data set and its features."""

import os
from typing import Any, Literal

import keras

from keras_transfer._lib.checks import checked_integer
from keras_transfer._lib.messages import verbosity
from keras_transfer.data.inputs import checked_loader
from keras_transfer.features.logme import classes_of, explained, log_maximum_evidence
from keras_transfer.features.one_pass import Seen, is_large, one_pass
from keras_transfer.layers.graph import check_graph
from keras_transfer.results.advice import Advice, LayerScore

_SOMETHING = 0.1
_RATE, _FAR_RATE, _FACTOR = 1e-4, 3e-4, 3.0


def advise(
    model: keras.Model,
    data: Any,
    *,
    batch_size: int = 32,
    cache: str | os.PathLike[str] | None = None,
    verbose: str | int = "auto",
) -> Advice:
    """Say what to freeze and how fast to train the rest, for a pretrained classifier and a data set.

    The old rule of thumb has four cases. Few images, near those of pretraining: a linear head on the
    last features. Few and far: a linear head on earlier ones. Many and near: fine-tune everything
    gently. Many and far: train everything. Here small is fewer than 200 images a class. Near and far
    are measured: the features at the end of each group of layers, averaged over the image, are scored by
    LogME. Far is where an earlier group tells more of the labels than the last does, or where none tells
    a tenth of them.

    Every image is seen once and nothing is trained. It is advice, not a result: where you can, let
    validation data decide.

    Args:
        model: a functional or sequential classifier with a pretrained backbone. It stays as it is.
        data: (x, y) arrays, a `keras_transfer.Loader` or a `PyDataset`: all images that there are
            for training.
        batch_size: images that are computed at a time.
        cache: a folder in which the features are kept for another time, as in
            `keras_transfer.FeatureCache`; None: a temporary one.
        verbose: 0 is silent, 2 gives lines, "auto" and 1 progress bars where there is a terminal.

    Returns:
        The advice, which prints in words, with the score of each group.

    Raises:
        ValueError: the model is subclassed or can't be cut, the data doesn't fit it, or has one class.
        TypeError: `data` is of another kind.

    Example:
        >>> import numpy as np, keras_transfer as kt
        >>> x, y = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), "uint8"), np.arange(12) % 2
        >>> x[y == 1] //= 4
        >>> model = kt.classifier("vgg16", 2, image_size=32, weights=None)
        >>> advice = kt.advise(model, (x, y), verbose=0)
        >>> advice.size, [score.layer for score in advice.layers][-2:]
        ('small', ['block4_pool', 'block5_pool'])

    References:
        Karpathy, "CS231n: Transfer Learning", 2015 (the four cases); You et al., "LogME", ICML 2021.
    """
    check_graph(model)
    checked_integer("batch_size", batch_size, 1)
    verbose = verbosity(verbose)
    loader = checked_loader(data, model, batch_size, "data")
    with one_pass(model, loader, cache, batch_size, verbose) as seen:
        return advice_on(model, seen)


def advice_on(model: keras.Model, seen: Seen) -> Advice:
    """Return the advice by what a pass over the data set has kept.

    Raises:
        ValueError: the model can't be cut, or there is one class.
    """
    if not seen.groups:
        raise ValueError(
            "model must have groups of layers that all paths run through (kt.layer_groups). "
            f"Received: model {model.name!r}"
        )
    classes = len(classes_of(seen.labels))
    scores = []
    for name, features in seen.groups.items():
        score = log_maximum_evidence(features, seen.labels)
        scores.append(LayerScore(name, score, explained(score, seen.labels)))
    return _advice(tuple(scores), len(seen.labels), classes)


def _advice(scores: tuple[LayerScore, ...], samples: int, classes: int) -> Advice:
    """Return what follows from the scores and the size."""
    best = max(scores, key=lambda score: score.logme)
    near = best is scores[-1] and best.explained >= _SOMETHING
    size: Literal["small", "large"] = "large" if is_large(samples, classes) else "small"
    distance: Literal["near", "far"] = "near" if near else "far"
    at = None if best is scores[-1] or size == "large" else best.layer
    rate = _RATE if near or size == "small" else _FAR_RATE
    factor = 1.0 if (size, distance) == ("large", "far") else _FACTOR
    why = f"the features of {best.layer!r}, the last, tell most of the labels"
    if best is not scores[-1]:
        others = f"those of {scores[-1].layer!r}"
        why = f"the features of {best.layer!r} tell more of the labels than {others}"
    per_class = samples / classes
    text = (
        f"{size.capitalize()} ({samples:,} images, {per_class:,.0f} a class) and {distance} from the "
        f"images of pretraining: {why}, {best.explained:.0%} of their spread. "
    )
    if best.explained < _SOMETHING:
        text += "That is little: another backbone may suit these images better (kt.rank_backbones). "
    text += _what_to_do(size, distance, at, rate)
    train: Literal["all"] | None = None if size == "small" else "all"
    return Advice(size, distance, samples, per_class, scores, at, train, rate, factor, text)


def _what_to_do(size: str, distance: str, at: str | None, rate: float) -> str:
    """Return the advice itself in words."""
    if at is not None:
        return (
            f"Keep the backbone frozen and put the head on {at!r}: model = kt.fit_linear_head(model, "
            f"train, at={at!r}). What comes after it has specialised on other images, and yours are too "
            "few to train it anew."
        )
    if size == "small":
        return (
            "Keep the backbone frozen and fit the head: model = kt.fit_linear_head(model, train). So "
            "few images can't move millions of weights safely. If you try more, train the last group, "
            f"too, from this head on, with Adam at {rate:g}, and let validation data decide."
        )
    first = (
        "Fit the head, model = kt.fit_linear_head(model, train), so that the first steps don't spoil "
        "features"
    )
    if distance == "near":
        return (
            f"{first}; then train everything with Adam at {rate:g} for the head, and each group at a "
            "third of the rate of the next (kt.multipliers.geometric(model, 3.0)): there are enough "
            "images to gain from it, and the earliest features need the least change."
        )
    return (
        f"{first}; then train everything with Adam at one rate of {rate:g}: there are enough images, "
        "and early layers must change, too. Compare with random weights."
    )
