"""Which backbone suits a data set, told from its features without training it."""

import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, NamedTuple

import keras
import numpy as np

from keras_transfer._lib.checks import check_counts, checked_choice, checked_integer, checked_number
from keras_transfer._lib.keras_private.variables import undrawn
from keras_transfer._lib.messages import SILENT, say, verbosity
from keras_transfer.backbones.applications import is_application
from keras_transfer.backbones.hub import find_preset
from keras_transfer.backbones.transformers.huggingface import find_checkpoint
from keras_transfer.data.grouping import divisible, how_many
from keras_transfer.data.inputs import checked_loader, in_order
from keras_transfer.data.loader import Loader
from keras_transfer.features import compared
from keras_transfer.features.cache.limited import Limit, TooLongError
from keras_transfer.features.compared import Scored
from keras_transfer.features.logme import classes_of, log_maximum_evidence
from keras_transfer.features.one_pass import Seen, one_pass
from keras_transfer.features.probe.linear_head import cross_validated
from keras_transfer.inference.runtimes import Runtime, by_the_first, started
from keras_transfer.layers.graph import check_graph, multiplications, up_to
from keras_transfer.layers.head import head_layers, last_weighted
from keras_transfer.models import beginning
from keras_transfer.models.beginning import Name, Sized
from keras_transfer.models.catalogue import list_backbones
from keras_transfer.models.classifier import classifier
from keras_transfer.models.depths import LAST, SEVERAL
from keras_transfer.results.automatic import LeftOut
from keras_transfer.results.ranking import BackboneRanking, HeadScore, RankedBackbone
from keras_transfer.tasks.scores import log_losses
from keras_transfer.tasks.single_label import SINGLE_LABEL

_METHODS = ("logme", "probe", "ridge")
_LEAST = {"probe": 3, "ridge": 2}  # samples of each class, for folds
CACHED: Literal["cached"] = "cached"


def rank_backbones(
    names: Sequence[Name | Sized] | Mapping[str, Name | Sized] | Literal["cached"],
    data: Any,
    *,
    method: Literal["logme", "probe", "ridge"] = "logme",
    weights: str | None = "imagenet",
    folds: int = 5,
    minutes: float | None = None,
    seed: int = 0,
    batch_size: int = 32,
    cache: str | os.PathLike[str] | None = None,
    verbose: str | int = "auto",
) -> BackboneRanking:
    """Order backbones by how well their features explain the labels of a data set, without training.

    Each network sees every image once. LogME is the evidence for the labels in a Bayesian linear model
    on the features; it takes seconds, and orders networks much as their accuracy after fine-tuning does.
    It is a guess: differences of a few hundredths say little.

    With method="ridge" a head is fitted as `automatic.train` does: ridge regression on as many depths as
    tell the classes best, on the same folds for all. Lowest log-loss on what was held back comes first;
    unless another is more accurate, by more than twice the standard error of the difference on the same
    images. So what it takes first is what `automatic.train` begins with, of which it can take the
    features out of the same `cache`.

    Args:
        names: names that `keras_transfer.classifier` takes, or models: backbones that bring their
            preprocessing, or classifiers, of which the last layer is left out. Each alone, for images as
            `data` has them, or as a pair (backbone, image_size), for which they are read in this size.
            Or a dict of such, with what each is called in the table. Or "cached": all of
            `list_backbones("cached")`, each at its size.
        data: (x, y) arrays, a `keras_transfer.Loader` or a `PyDataset`, of raw RGB images; some hundred
            will do.
        method: what decides the order. "logme": LogME alone. "probe": the accuracy of logistic
            regression by cross-validation (extra `probe`), with LogME beside it. "ridge": log-loss and
            accuracy of ridge regression on several depths (extra `probe`).
        weights: "imagenet", or None for random ones, of the backbones given by name.
        folds: of the cross-validation.
        minutes: what all may take. Backbones are then taken in the order of the multiplications that an
            image takes, the cheapest first, and this in any case. How long the pass of another takes is
            told by its first batches; what doesn't fit is not tried, and `left_out` of the table says
            so. None: all are tried.
        seed: decides which samples are in which fold.
        batch_size: images that are computed at a time.
        cache: a folder in which the features are kept for another time, as in
            `keras_transfer.FeatureCache`; None: a temporary one.
        verbose: 0 is silent, 2 gives lines, "auto" and 1 progress bars where there is a terminal.

    Returns:
        The table, the best first.

    Raises:
        ValueError: there is no such backbone or method, the images don't suit one, there are samples
            of one class only, or names="cached" and no weights are there.
        TypeError: `data` is of another kind, or a name is neither a name nor a model.
        ConnectionError: weights are needed and could not be fetched.
        ImportError: method="probe" or "ridge", and scikit-learn is not installed.

    Example:
        >>> import keras, numpy as np, keras_transfer as kt
        >>> image = keras.Input((8, 8, 3))
        >>> colour = keras.Model(image, keras.layers.GlobalAveragePooling2D()(image), name="colour")
        >>> size = keras.Model(image, keras.ops.mean(image, (1, 2, 3), keepdims=True), name="brightness")
        >>> x = np.random.default_rng(0).uniform(0, 255, (30, 1, 1, 3)) * np.ones((1, 8, 8, 1))
        >>> ranking = kt.rank_backbones([size, colour], (x, x[:, 0, 0, 0] > x[:, 0, 0, 1]), verbose=0)
        >>> [row.name for row in ranking]
        ['colour', 'brightness']

    References:
        You et al., "LogME: Practical Assessment of Pre-trained Models for Transfer Learning", ICML 2021.
    """
    begun = time.perf_counter()
    checked_choice("method", method, _METHODS)
    checked_integer("folds", folds, 2)
    checked_integer("seed", seed, 0)
    checked_integer("batch_size", batch_size, 1)
    if minutes is not None:
        checked_number("minutes", minutes, note=", or None for no limit")
    verbose = verbosity(verbose)
    given = _candidates(names)
    if method in _LEAST:  # and tell now if scikit-learn is missing
        from keras_transfer.features.probe import linear_fit  # noqa: F401
    how = _How(method, weights, folds, seed, batch_size, cache, verbose)
    loader = in_order(data, batch_size)
    size = loader.samples(0, 1)[0].shape[1:3]
    given = [each if each.size else each._replace(size=size) for each in given]
    if minutes is not None:
        given.sort(key=partial(_cost, weights=weights))
    rows: list[RankedBackbone] = []
    scored: list[Scored | None] = []
    left_out: list[LeftOut] = []
    beside = 0.0  # what the last one took beside its pass, such as the fit of its head
    for one in given:
        images = loader if one.size == size else loader.replace(image_size=one.size)
        before = time.perf_counter() - begun + beside
        most = math.inf if minutes is None or not rows else 60 * minutes - before
        try:
            row, scores = _ranked(one, images, how, most)
        except TooLongError as error:
            left_out.append(LeftOut(one.label, before + error.seconds))
            say(verbose, f"{one.label} is left out: it would take {error.seconds / 60:.1f} minutes")
            continue
        beside = time.perf_counter() - begun - (before - beside) - row.seconds
        rows.append(row)
        scored.append(scores)
    return BackboneRanking(_ordered(rows, scored, method), left_out)


class _Candidate(NamedTuple):
    """A backbone that is ranked.

    Attributes:
        name: what it is called.
        backbone: it.
        size: height and width of its images; None: as they are.
    """

    name: str
    backbone: Name
    size: Any

    @property
    def label(self) -> str:
        """What it is called in a line, where the same may be ranked for several sizes."""
        return f"{self.name} at {'x'.join(map(str, dict.fromkeys(self.size)))} pixels"


@dataclass(frozen=True)
class _How:
    """How backbones are ranked: arguments of `rank_backbones`."""

    method: str
    weights: str | None
    folds: int
    seed: int
    batch_size: int
    cache: str | os.PathLike[str] | None
    verbose: int


def _ranked(
    one: _Candidate, images: Loader, how: _How, most_seconds: float
) -> tuple[RankedBackbone, Scored | None]:
    """Return what a backbone is worth, and for "ridge" what its head makes of each sample."""
    model = _classifier(one.backbone, one.size, how.weights, how.method)
    network = up_to(model, last_weighted(model))
    loader = checked_loader(images, network, how.batch_size, "data", classes=False)
    logme, probe, scored = None, None, None
    begun = time.perf_counter()
    limit = Limit(most_seconds)
    with one_pass(model, loader, how.cache, how.batch_size, how.verbose, limit) as seen:
        seconds = time.perf_counter() - begun
        found = classes_of(seen.labels)
        y = np.searchsorted(found, seen.labels)
        folds = _folds(y, found, loader, how)
        if how.method == "ridge":
            probe, scored = _by_ridge(seen, y, folds, how.seed, loader.groups)
        else:
            logme = log_maximum_evidence(seen.head, y)
        if how.method == "probe":
            shared = how.seed, how.verbose, (), loader.groups
            probe = cross_validated(seen.head, y, "logistic", None, folds, *shared)
    milliseconds = None if scored else _milliseconds(network, loader, how.batch_size)
    parameters = network.count_params()
    row = RankedBackbone(
        one.name,
        logme,
        probe,
        parameters,
        4e-6 * parameters,
        milliseconds,
        tuple(network.input_shape[1:3]),
        seconds,
    )
    return row, scored


def _folds(y: np.ndarray, found: np.ndarray, loader: Loader, how: _How) -> int:
    """Return how many folds there can be, or raise if the samples are too few for the method."""
    if how.method not in _LEAST:
        return 0
    from keras_transfer.features.probe import linear_fit

    every = loader.class_names
    named = [every[k] if every else str(k) for k in found]
    why, remedy = f" for method={how.method!r}", "add some, or take method='logme'"
    groups = loader.groups
    of = "samples" if groups is None else "groups"
    check_counts("data", divisible(y, groups), named, _LEAST[how.method], why, remedy, of)
    return linear_fit.fold_count(y, how.folds, groups)


def _by_ridge(
    seen: Seen, y: np.ndarray, folds: int, seed: int, groups: np.ndarray | None
) -> tuple[HeadScore, Scored]:
    """Return what a ridge regression makes of samples that it was not fitted to."""
    from keras_transfer.features.probe import linear_fit
    from keras_transfer.features.probe.head_choice import choose_head

    splits = list(linear_fit.fold_indices(y, folds, seed, groups))
    choice = choose_head(seen.head, y, seen.widths, splits, groups=groups).choice
    right, losses = np.empty(len(y)), np.empty(len(y))
    for (_, held_back), logits in zip(splits, choice.logits, strict=True):
        right[held_back] = SINGLE_LABEL.correct(logits, y[held_back])
        losses[held_back] = log_losses(logits, y[held_back])
    accuracies = tuple(float(right[held_back].mean()) for _, held_back in splits)
    score = HeadScore(accuracies, (choice.value,) * folds, len(y), how_many(groups))
    return score, Scored(right, losses)


def _ordered(
    rows: Sequence[RankedBackbone], scored: Sequence[Scored | None], method: str
) -> list[RankedBackbone]:
    """Return the rows, the best first."""
    if method == "ridge":
        told = [each for each in scored if each is not None]
        order = compared.in_order(told)
        made = []
        for index in order:
            less, error = compared.behind(told[index], told[order[0]])
            loss = float(told[index].losses.mean())
            made.append(replace(rows[index], log_loss=loss, behind=less, error=error))
        return made
    key = (lambda row: row.probe.mean) if method == "probe" else (lambda row: row.logme)
    return sorted(rows, key=key, reverse=True)


def _cost(one: _Candidate, weights: str | None) -> int:
    """Return how many multiplications an image takes."""
    if isinstance(one.backbone, keras.Model):
        return multiplications(one.backbone)
    with undrawn():
        return multiplications(classifier(one.backbone, 2, image_size=one.size, weights=None))


def _candidates(names: Any) -> list[_Candidate]:
    """Return backbones with what they are called, after a look at each of them."""
    if isinstance(names, str) and names == CACHED:
        names = [(row.name, row.input_size) for row in list_backbones(CACHED)]
        if not names:
            raise ValueError(
                "names='cached' means the backbones whose ImageNet weights are in Keras' cache, of "
                "which there are none; kt.classifier(name, num_classes) fetches those of a backbone. "
                "Without a network, put files that Keras has fetched elsewhere into the folder models/ "
                "of Keras' home (~/.keras, or $KERAS_HOME). Received: names='cached'"
            )
    if isinstance(names, (str, os.PathLike, keras.Model)) or not hasattr(names, "__len__"):
        raise TypeError(
            f"names must be a list or a dict of backbones, or {CACHED!r}. "
            f"Received: names of type {type(names).__name__}"
        )
    every = names.values() if isinstance(names, Mapping) else names
    pairs = [beginning.with_size(each) for each in every]
    called: Iterable[Any] = names if isinstance(names, Mapping) else map(_called, pairs)
    given = [_Candidate(name, *pair) for name, pair in zip(called, pairs, strict=True)]
    if len({(each.name, each.size) for each in given}) < len(given) or not given:
        raise ValueError(
            "names must be backbones with different names or sizes, at least one; a dict gives them "
            f"names. Received: names={[each.name for each in given]}"
        )
    for each in given:
        _check(each.backbone)
    return given


def _called(pair: tuple[Any, Any]) -> str:
    return pair[0].name if isinstance(pair[0], keras.Model) else str(pair[0])


def _check(backbone: Any) -> None:
    if isinstance(backbone, keras.Model):
        check_graph(backbone)
    elif not isinstance(backbone, (str, os.PathLike)):
        raise TypeError(
            f"a backbone must be a name or a keras.Model. Received: {type(backbone).__name__}"
        )
    elif not (isinstance(backbone, str) and is_application(backbone)):
        _ = find_checkpoint(backbone) or find_preset(backbone)


def _classifier(backbone: Name, size: tuple[int, int], weights: str | None, method: str) -> keras.Model:
    """Return a classifier, of any two classes, of images of a size on a backbone."""
    features = SEVERAL if method == "ridge" else LAST
    if isinstance(backbone, keras.Model):
        body = up_to(backbone, last_weighted(backbone)) if head_layers(backbone) else backbone
        return classifier(body, 2, image_size=size)
    return classifier(backbone, 2, image_size=size, weights=weights, features=features)


def _milliseconds(network: keras.Model, loader: Loader, batch_size: int) -> float:
    """Return what an image takes, after a first batch for which the network may be compiled."""
    images = loader.samples(0, min(batch_size, loader.num_samples))[0]

    def timed(runtime: Runtime) -> float:
        compute = started(network, runtime, images, len(images))
        compute(images)
        start = time.perf_counter()
        compute(images)
        return 1e3 * (time.perf_counter() - start) / len(images)

    return by_the_first(network, "auto", timed, SILENT)
