"""Linear classifiers fitted to features, as the heads of networks."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import keras
import numpy as np

from keras_transfer._lib.checks import check_counts, checked_choice, checked_integer, checked_number
from keras_transfer._lib.messages import progress, say, verbosity
from keras_transfer.data.carried_rules import attach_rules
from keras_transfer.data.grouping import check_apart, divisible, how_many, of_samples
from keras_transfer.data.inputs import checked_loader
from keras_transfer.data.loader import Loader
from keras_transfer.features.probe.vectors import feature_vectors
from keras_transfer.layers.about import (
    attach_class_names,
    attach_origin,
    class_names,
    mark_new,
    origin_of,
)
from keras_transfer.layers.graph import check_graph, up_to
from keras_transfer.layers.guard import guard
from keras_transfer.layers.head import check_ending, ended, is_plain, last_weighted, single_dense
from keras_transfer.layers.splitting import split_model
from keras_transfer.layers.task import task_of
from keras_transfer.models.classifier import add_head
from keras_transfer.models.depths import depth_widths
from keras_transfer.models.tokens import tokens_of
from keras_transfer.results.ranking import HeadScore
from keras_transfer.tasks.class_weights import ClassWeight, checked_class_weight
from keras_transfer.tasks.imbalance import adjustment, checked_adjustment
from keras_transfer.tasks.multi_label import MULTI_LABEL

if TYPE_CHECKING:
    from keras_transfer.features.probe.head_choice import Head
    from keras_transfer.features.probe.linear_fit import Linear

Method = Literal["logistic", "svm", "ridge"]
METHODS = ("logistic", "svm", "ridge")


def fit_linear_head(
    model: keras.Model,
    train: Any,
    validation: Any = None,
    *,
    at: str | None = None,
    method: Method = "logistic",
    C: float | None = None,
    class_weight: ClassWeight | None = None,
    logit_adjustment: float = 0.0,
    folds: int = 5,
    seed: int = 0,
    batch_size: int = 32,
    cache: str | os.PathLike[str] | None = None,
    verbose: str | int = "auto",
) -> keras.Model:
    """Return a classifier whose last layer is fitted to what the network before it makes of the images.

    Logistic regression, a linear support vector machine or ridge regression of scikit-learn (extra
    `probe`) on standardised features. The standardisation is folded into the weights, so that what comes
    back is a plain classifier of raw images. It is found in seconds and is the same each time, and a
    strong start for fine-tuning: with a random head the first steps spoil pretrained features.

    The features are computed once, in inference mode and without the augmentation of a loader, and stay
    in files. Those to which a head is fitted are in memory once, in float64: 8 bytes each, which is 10
    kB an image for the 1,280 features of MobileNetV2. For "svm" its solver has them once more, in 16.

    A model of `classifier(features="several")` has features of several depths. A ridge regression
    chooses, by folds of `train`, how many of the last ones the head is given; the others have weights
    of 0.

    Args:
        model: a functional or sequential classifier with a softmax or logits at its end, or a sigmoid
            for each class: then a logistic regression is fitted for each class against the rest, with
            one C for all, that of the lowest mean log-loss, and on all depths. It stays as it is.
        train: (x, y) arrays, a `keras_transfer.Loader` or a `PyDataset`, with samples of every class.
        validation: the same for the choice of C, or None for stratified folds of `train`.
        at: None: fit a layer in the place of the last one, before which the head must have no other
            weights. Or the name of a layer that all paths run through, such as an earlier one where the
            images are few and far from those of pretraining: the head is then global average pooling, if
            it is a map, or the token of the class, if it gives tokens and there is one, and one `Dense`
            layer on that.
        method: "logistic": multinomial logistic regression. "svm": a linear support vector machine for
            each class against the rest, with squared hinge loss. Its scores order the classes, but the
            softmax of them is no probability. "ridge": least squares for each class against the rest,
            times what makes the log-loss of images that it has not seen lowest. It is often better
            where there are few images of many classes.
        C: the inverse of the strength of L2 regularisation, as in scikit-learn; for "ridge" times the
            number of features. None: of the powers of ten from 1e-5 to 10 (to 0.1 for "svm") that with
            the highest accuracy on validation data, among equals the lowest log-loss, where larger ones
            are not tried once the log-loss rises; for "ridge", of 1e-5 to 30, that with the lowest
            log-loss.
        class_weight: as in `keras_transfer.fine_tune`, such as "balanced". C is chosen without.
        logit_adjustment: by how many times the logarithm of a class's share of `train` its bias is lower
            in the end, so that common classes are not preferred; 1 is best for macro accuracy as far as
            the softmax of the logits tells probabilities, which are then those of data with equally
            common classes. 0: as it is. Not for "svm", and not together with "balanced" weights, which
            do the same.
        folds: how many folds for the choice, at most as many as the smallest class has samples. But for
            "ridge", those that have 1,500 samples together are enough.
        seed: decides which samples are in which fold.
        batch_size: images that are computed at a time.
        cache: a folder in which the features are kept for another time, as in
            `keras_transfer.FeatureCache`; None: a temporary one.
        verbose: 0 is silent, 2 gives lines, "auto" and 1 progress bars where there is a terminal.

    Returns:
        A new classifier, not compiled, for each `at`. It shares the layers up to there with `model`, and
        which of them train; then come the pooling, where there is one, the fitted `Dense` layer, which
        `Phase(train="new")` knows as new, and a softmax, if `model` ends in one. It has the class names,
        and no calibration.

    Raises:
        ValueError: there is no such layer or a path by-passes it; the head has several layers with
            weights; a class has no samples; an argument has no sensible meaning.
        TypeError: `train` or `validation` is data of another kind.
        ImportError: scikit-learn is not installed.

    Example:
        >>> import numpy as np, keras_transfer as kt
        >>> x = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), "uint8")
        >>> y = np.arange(20) % 2
        >>> x[y == 1] //= 4
        >>> model = kt.classifier("mobilenet", 2, image_size=32, weights=None)
        >>> model = kt.fit_linear_head(model, (x, y), verbose=0)
        >>> early = kt.fit_linear_head(model, (x, y), at="conv_pw_3_relu", method="svm", verbose=0)
        >>> [layer.name for layer in early.layers][-4:]
        ['conv_pw_3_relu', 'avg_pool', 'predictions', 'softmax']
        >>> float((early.predict(x, verbose=0).argmax(axis=1) == y).mean())
        1.0

    References:
        Kumar et al., "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution",
        2022 (linear probing, then fine-tuning); Kornblith, Shlens and Le, "Do Better ImageNet Models
        Transfer Better?", 2019 (logistic regression on features); Menon et al., "Long-Tail Learning via
        Logit Adjustment", ICLR 2021 (post-hoc).
    """
    from keras_transfer.features.probe.head_choice import fit_head

    tau = _checked_adjustment(logit_adjustment, method, class_weight)
    checked, verbose = _Arguments(model, at, method, C, folds, seed, batch_size), verbosity(verbose)
    several = checked_several(checked.model, method)
    if several and (tau or class_weight is not None):
        raise ValueError(
            "class_weight must be None and logit_adjustment 0 for a model with a sigmoid for each "
            f"class. Received: class_weight={class_weight!r}, logit_adjustment={logit_adjustment!r}"
        )
    loader = checked_loader(train, checked.model, batch_size, "train", several=several)
    names = class_names(model) or loader.class_names
    weights = checked_class_weight(
        class_weight, checked.model.output_shape[-1], names, loader.class_counts
    )
    other = None
    if validation is not None:
        other = checked_loader(validation, checked.model, batch_size, "validation", several=several)
        check_apart(loader, other, "train", "validation")
    with contextlib.ExitStack() as stack:

        def vectors(some: Loader) -> Any:
            return stack.enter_context(
                feature_vectors(checked.network, some, cache, batch_size, verbose)
            )

        x, y = vectors(loader)
        checked.check_classes(y, "train", loader.class_names)
        held_back = None if other is None else vectors(other)
        if several:
            linear, value, how = _of_rows(checked, x, y, held_back, loader, verbose)
        else:
            head, how = _head(checked, x, y, held_back, loader, verbose, weights)
            linear, value = fit_head(x, y, head, weights), head.choice.value
    linear = linear.plus(adjustment(np.bincount(y), tau)) if tau else linear
    assign_linear(checked.dense, linear)
    attach_rules(checked.model, loader)
    say(verbose, f"Linear head: C = {value:g}{how}")
    return checked.model


def _checked_adjustment(logit_adjustment: Any, method: str, class_weight: Any) -> float:
    """Return an argument, or raise a `ValueError` if logits can't be adjusted, or are twice."""
    tau = checked_adjustment(logit_adjustment, class_weight)
    if tau and method == "svm":
        raise ValueError(
            "logit_adjustment needs logits of probabilities, which method='svm' doesn't give. "
            f"Received: logit_adjustment={logit_adjustment!r}, method={method!r}"
        )
    return tau


def checked_several(model: keras.Model, method: str) -> bool:
    """Return whether a model is for several labels an image, or raise if the method isn't."""
    several = task_of(model) is MULTI_LABEL
    if several and method != "logistic":
        raise ValueError(
            "method must be 'logistic' for a model with a sigmoid for each class, as that is what gives "
            f"probabilities. Received: method={method!r}"
        )
    return several


def _of_rows(
    checked: "_Arguments",
    x: Any,
    rows: np.ndarray,
    held_back: Any,
    loader: Loader,
    verbose: int,
) -> "tuple[Linear, float, str]":
    """Return a logistic regression for each class, its C, and in words how it was chosen."""
    from keras_transfer.features.probe import linear_fit

    if checked.C is not None:
        (linear,) = linear_fit.fit_rows(x, rows, [checked.C])
        return linear, checked.C, ""
    values, splits = linear_fit.GRIDS["logistic"], iter([((x, rows), held_back)])
    count, how = 1, "on the validation data"
    if held_back is None:
        count = min(checked.folds, how_many(loader.groups) or len(rows))
        splits, how = (
            linear_fit.fold_rows(x, rows, count, checked.seed, loader.groups),
            f"in {count} folds",
        )
    with progress(verbose, "Linear heads", count * len(values)) as advance:
        value, loss = linear_fit.choose_for_rows(splits, advance, values)
    (linear,) = linear_fit.fit_rows(x, rows, [value])
    return linear, value, f", with a log-loss of {loss:.3f} a label {how}"


def _head(
    checked: "_Arguments",
    x: Any,
    y: np.ndarray,
    held_back: Any,
    loader: Loader,
    verbose: int,
    class_weight: dict[int, float] | None,
) -> "tuple[Head, str]":
    """Return the head that is to be fitted, and in words how it was chosen."""
    from keras_transfer.features.probe import linear_fit
    from keras_transfer.features.probe.head_choice import Head, chosen_depths, last_features

    widths, method, C = depth_widths(checked.model, x.shape[1]), checked.method, checked.C
    depths = chosen_depths(x, y, widths, groups=loader.groups)
    width = sum(widths[-depths:])
    which = f", on the last {depths} of {len(widths)} depths" if len(widths) > 1 else ""
    if C is not None and method != "ridge":
        return Head(depths, width, linear_fit.given(method, C)), which
    x = last_features(x, width)
    values = linear_fit.GRIDS[method] if C is None else (C,)
    splits: Iterator[Any]
    if held_back is not None:
        held_back = last_features(held_back[0], width), held_back[1]
        count, how, splits = 1, "on the validation data", iter([((x, y), held_back)])
    else:
        count = checked.folds_of(y, "train", loader, "pass C=... or validation data")
        splits, how = linear_fit.fold_data(x, y, count, checked.seed, loader.groups), "in {} folds"
    with progress(verbose, "Linear heads", count * len(values)) as advance:
        choice = linear_fit.choose(splits, method, advance, class_weight, values)
    how = how.format(len(choice.logits))
    return Head(depths, width, choice), f"{which}, with an accuracy of {choice.accuracy:.3f} {how}"


def cross_validate_head(
    model: keras.Model,
    data: Any,
    *,
    at: str | None = None,
    method: Method = "logistic",
    C: float | None = None,
    folds: int = 5,
    seed: int = 0,
    batch_size: int = 32,
    cache: str | os.PathLike[str] | None = None,
    verbose: str | int = "auto",
) -> HeadScore:
    """Return how accurate `fit_linear_head` is on images that it has not seen, by k-fold validation.

    The features are computed once; in each of stratified folds a head is fitted to the other samples,
    with a C that is chosen within these, and scored on the fold.

    Args:
        model: as in `fit_linear_head`. It stays as it is.
        data: (x, y) arrays, a `keras_transfer.Loader` or a `PyDataset`.
        at: as in `fit_linear_head`.
        method: as in `fit_linear_head`.
        C: as in `fit_linear_head`; a number saves most of the time.
        folds: how many folds, at most as many as the smallest class has samples.
        seed: decides which samples are in which fold.
        batch_size: images that are computed at a time.
        cache: as in `fit_linear_head`.
        verbose: 0 is silent, 2 gives lines, "auto" and 1 progress bars where there is a terminal.

    Returns:
        The accuracy of each fold, their mean and standard deviation.

    Raises:
        ValueError, TypeError, ImportError: as in `fit_linear_head`.

    Example:
        >>> import numpy as np, keras_transfer as kt
        >>> x = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), "uint8")
        >>> y = np.arange(20) % 2
        >>> x[y == 1] //= 4
        >>> model = kt.classifier("mobilenet", 2, image_size=32, weights=None)
        >>> print(kt.features.cross_validate_head(model, (x, y), at="conv_pw_3_relu", verbose=0))
        accuracy 1.000 (0.839 to 1.000; 5 folds of 20 samples)
    """
    checked, verbose = _Arguments(model, at, method, C, folds, seed, batch_size), verbosity(verbose)
    loader = checked_loader(data, checked.model, batch_size, "data")
    with feature_vectors(checked.network, loader, cache, batch_size, verbose) as (x, y):
        checked.check_classes(y, "data", loader.class_names)
        remedy = "pass C=... or more samples" if C is None else "add samples"
        count = checked.folds_of(y, "data", loader, remedy, 2 if C is not None else 3)
        widths = depth_widths(checked.model, x.shape[1])
        return cross_validated(x, y, method, C, count, seed, verbose, widths, loader.groups)


def cross_validated(
    x: Any,
    y: np.ndarray,
    method: str,
    C: float | None,
    folds: int,
    seed: int,
    verbose: int,
    widths: Sequence[int] = (),
    groups: np.ndarray | None = None,
) -> HeadScore:
    """Return the score of linear heads on features of shape (samples, features).

    Where there are `widths` of several depths, these are chosen in each fold. `groups` stay whole.
    """
    from keras_transfer.features.probe import linear_fit
    from keras_transfer.features.probe.head_choice import chosen_depths, last_features

    accuracies, values = [], []
    fits = 1 if C is not None else 1 + folds * len(linear_fit.GRIDS[method])
    with progress(verbose, "Linear heads", folds * fits) as advance:
        for kept, held_back in linear_fit.fold_indices(y, folds, seed, groups):
            train, test = (x[kept], y[kept]), (x[held_back], y[held_back])
            rest = of_samples(groups, kept)
            if len(widths) > 1:
                width = sum(widths[-chosen_depths(*train, widths, groups=rest) :])
                train, test = ((last_features(a, width), b) for a, b in (train, test))
            value = C
            if value is None:
                inner = linear_fit.fold_count(train[1], folds, rest)
                splits = linear_fit.fold_data(*train, inner, seed, rest)
                value = linear_fit.choose(splits, method, advance).value
            (linear,) = linear_fit.fit(*train, method, [value])
            accuracies.append(linear.accuracy(*test))
            values.append(value)
            advance()
    return HeadScore(tuple(accuracies), tuple(values), len(y), how_many(groups))


def assign_linear(dense: keras.layers.Dense, linear: Any) -> None:
    """Write a linear classifier of `linear_fit` into a layer."""
    dense.kernel.assign(linear.kernel.astype("float32"))
    dense.bias.assign(linear.bias.astype("float32"))


def assignable_dense(model: keras.Model) -> keras.layers.Dense:
    """Return `single_dense`, or raise if its weights can't be given values."""
    dense = single_dense(model)
    if not is_plain(dense):
        raise ValueError(
            "the output layer must have its kernel and bias as its only weights, which are fitted. "
            "Without LoRA and quantization it is new with kt.replace_head(model, num_classes); quantize "
            f"it when it is trained. Received: model {model.name!r} with {dense.name!r}, which has "
            f"{', '.join(weight.name for weight in dense.weights)}"
        )
    return dense


class _Arguments:
    """The arguments of a fit, checked, with the model that is fitted and its parts."""

    def __init__(
        self, model: keras.Model, at: Any, method: Any, C: Any, folds: Any, seed: Any, batch_size: Any
    ) -> None:
        from keras_transfer.features.probe.linear_fit import fold_count

        self._fold_count = fold_count
        self.method: str = checked_choice("method", method, METHODS)
        self.C, self.seed = C, seed
        if C is not None:
            checked_number("C", C, note=", or None to choose one")
        self.folds = checked_integer("folds", folds, 2)
        checked_integer("seed", seed, 0)
        checked_integer("batch_size", batch_size, 1)
        self.model = _with_new_head(model, at)
        self.dense = last_weighted(self.model)
        self.network = up_to(self.model, self.dense)

    def check_classes(self, y: np.ndarray, argument: str, names: list[str] | None) -> None:
        """Raise a `ValueError` if a class of the model has no sample."""
        classes = self.model.output_shape[-1]
        counts = y.sum(axis=0) if y.ndim == 2 else np.bincount(y, minlength=classes)
        names = self._names(names) or [str(index) for index in range(len(counts))]
        missing = [names[index] for index in np.flatnonzero(counts == 0)]
        if missing:
            raise ValueError(
                f"{argument} must have samples of each of the {len(counts)} classes of the model; make "
                "a model for the classes that there are with kt.replace_head or kt.classifier. "
                f"Received: no samples of {len(missing)} of them: {', '.join(missing[:10])}"
            )

    def folds_of(
        self, y: np.ndarray, argument: str, loader: Loader, remedy: str, needed: int = 2
    ) -> int:
        """Return how many folds the samples allow, at most as many as were asked for."""
        groups, names = loader.groups, self._names(loader.class_names)
        of = "samples" if groups is None else "groups"
        check_counts(argument, divisible(y, groups), names, needed, " for folds", remedy, of)
        return self._fold_count(y, self.folds, groups)

    def _names(self, names: list[str] | None) -> list[str] | None:
        return class_names(self.model) or names


def _with_new_head(model: keras.Model, at: str | None) -> keras.Model:
    """Return a classifier of one new linear layer, on what is before that of `model`, or of `at`."""
    if at is None:
        prefix = up_to(model, single_dense(model, several=True))
    else:
        check_graph(model)
        if len(model.outputs) != 1 or len(model.output_shape) != 2:
            raise ValueError(
                "model must have one output, of a number for each class. "
                f"Received: {model.name!r} with output {model.output_shape}"
            )
        check_ending(model, last_weighted(model), several=True)
        prefix, _ = split_model(model, at)
    features = prefix.outputs[0]
    if len(features.shape) not in (2, 3, 4):
        raise ValueError(
            "at must be a layer that gives feature maps (batch, rows, columns, channels), tokens "
            "(batch, tokens, channels) or vectors (batch, channels). "
            f"Received: at={at!r}, whose output has shape {features.shape}"
        )
    taken = {operation.name for operation in prefix.operations}
    # What it begins with is never seen; a seed of its own leaves Keras' generator as it is.
    tokens = tokens_of(features, model)
    logits = add_head(features, model.output_shape[-1], None, (), 0.0, 0, taken, tokens)
    outputs = ended(logits, model, last_weighted(model), taken)
    made = keras.Model(prefix.inputs[0], outputs, name=model.name)
    mark_new(made, [layer for layer in made.layers if layer.name not in taken])
    names, origin = class_names(model), origin_of(model)
    if names is not None:
        attach_class_names(made, names)
    if origin is not None:
        attach_origin(made, origin)
    guard(made)
    guard(model)  # which shares the layers
    return made
