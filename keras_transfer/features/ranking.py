"""Which backbone suits a data set, told from its features without training it."""

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import keras
import numpy as np

from keras_transfer._lib.checks import check_counts, checked_choice, checked_integer
from keras_transfer._lib.messages import SILENT, verbosity
from keras_transfer.backbones.applications import is_application
from keras_transfer.backbones.hub import find_preset
from keras_transfer.data.inputs import checked_loader, in_order
from keras_transfer.data.loader import Loader
from keras_transfer.features.logme import classes_of, log_maximum_evidence
from keras_transfer.features.one_pass import one_pass
from keras_transfer.features.probe.linear_head import cross_validated
from keras_transfer.inference.runtimes import Runtime, by_the_first, started
from keras_transfer.layers.graph import check_graph, up_to
from keras_transfer.layers.head import head_layers, last_weighted
from keras_transfer.models.classifier import classifier
from keras_transfer.results.ranking import BackboneRanking, RankedBackbone

_METHODS = ("logme", "probe")
Name: TypeAlias = "str | os.PathLike[str] | keras.Model"


def rank_backbones(
    names: Sequence[Name] | Mapping[str, Name],
    data: Any,
    *,
    method: Literal["logme", "probe"] = "logme",
    weights: str | None = "imagenet",
    folds: int = 5,
    seed: int = 0,
    batch_size: int = 32,
    cache: str | os.PathLike[str] | None = None,
    verbose: str | int = "auto",
) -> BackboneRanking:
    """Order backbones by how well their features explain the labels of a data set, without training.

    Each network sees every image once. LogME is the evidence for the labels in a Bayesian linear model
    on the features; it takes seconds, and orders networks much as their accuracy after fine-tuning does.
    It is a guess: differences of a few hundredths say little.

    Args:
        names: names that `keras_transfer.classifier` takes, or models: backbones that bring their
            preprocessing, or classifiers, of which the last layer is left out. Or a dict of such, with
            what each is called in the table.
        data: (x, y) arrays, a `keras_transfer.Loader` or a `PyDataset`, of raw RGB images; some hundred
            will do.
        method: what decides the order. "logme": LogME alone. "probe": the accuracy of logistic
            regression by cross-validation (extra `probe`), with LogME beside it.
        weights: "imagenet", or None for random ones, of the backbones given by name.
        folds: of the cross-validation.
        seed: decides which samples are in which fold.
        batch_size: images that are computed at a time.
        cache: a folder in which the features are kept for another time, as in
            `keras_transfer.FeatureCache`; None: a temporary one.
        verbose: 0 is silent, 2 gives lines, "auto" and 1 progress bars where there is a terminal.

    Returns:
        The table, the best first.

    Raises:
        ValueError: there is no such backbone or method, the images don't suit one, or there are samples
            of one class only.
        TypeError: `data` is of another kind, or a name is neither a name nor a model.
        ConnectionError: weights are needed and could not be fetched.
        ImportError: method="probe", and scikit-learn is not installed.

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
    checked_choice("method", method, _METHODS)
    checked_integer("folds", folds, 2)
    checked_integer("seed", seed, 0)
    checked_integer("batch_size", batch_size, 1)
    verbose = verbosity(verbose)
    given = _by_name(names)
    if method == "probe":
        from keras_transfer.features.probe import linear_fit

    loader = in_order(data, batch_size)
    size = loader.samples(0, 1)[0].shape[1:3]
    rows = []
    for name, backbone in given.items():
        model = _classifier(backbone, size, weights)
        network = up_to(model, last_weighted(model))
        checked = checked_loader(loader, network, batch_size, "data", classes=False)
        probe = None
        with one_pass(model, checked, cache, batch_size, verbose) as seen:
            found = classes_of(seen.labels)
            y = np.searchsorted(found, seen.labels)
            if method == "probe":
                every = loader.class_names
                named = [every[k] if every else str(k) for k in found]
                why, remedy = " for method='probe'", "add some, or take method='logme'"
                check_counts("data", np.bincount(y), named, 3, why, remedy)
                count = linear_fit.fold_count(y, folds)
                probe = cross_validated(seen.head, y, "logistic", None, count, seed, verbose)
            logme = log_maximum_evidence(seen.head, y)
        parameters = network.count_params()
        milliseconds = _milliseconds(network, checked, batch_size)
        rows.append(RankedBackbone(name, logme, probe, parameters, 4e-6 * parameters, milliseconds))
    key = (lambda row: row.probe.mean) if method == "probe" else (lambda row: row.logme)
    return BackboneRanking(sorted(rows, key=key, reverse=True))


def _by_name(names: Any) -> dict[str, Name]:
    """Return backbones by what they are called, after a look at each of them."""
    if isinstance(names, (str, os.PathLike, keras.Model)) or not hasattr(names, "__len__"):
        raise TypeError(
            f"names must be a list or a dict of backbones. "
            f"Received: names of type {type(names).__name__}"
        )
    if isinstance(names, Mapping):
        given = dict(names)
    else:
        called = [each.name if isinstance(each, keras.Model) else str(each) for each in names]
        given = dict(zip(called, names, strict=True))
    if len(given) < len(names) or not given:
        raise ValueError(
            "names must be backbones with different names, at least one; a dict gives them names. "
            f"Received: names={[str(name) for name in given]}"
        )
    for backbone in given.values():
        if isinstance(backbone, keras.Model):
            check_graph(backbone)
        elif not isinstance(backbone, (str, os.PathLike)):
            raise TypeError(
                f"a backbone must be a name or a keras.Model. Received: {type(backbone).__name__}"
            )
        elif not (isinstance(backbone, str) and is_application(backbone)):
            find_preset(backbone)
    return given


def _classifier(backbone: Name, size: tuple[int, int], weights: str | None) -> keras.Model:
    """Return a classifier, of any two classes, of images of a size on a backbone."""
    if isinstance(backbone, keras.Model):
        body = up_to(backbone, last_weighted(backbone)) if head_layers(backbone) else backbone
        return classifier(body, 2, image_size=size)
    return classifier(backbone, 2, image_size=size, weights=weights)


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
