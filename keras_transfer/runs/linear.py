"""Which linear head suits a data set: on how many depths, and whether it is given mirror images, too."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_transfer._lib.messages import say
from keras_transfer.data.loader import Loader
from keras_transfer.features.one_pass import Seen, one_pass
from keras_transfer.features.probe.vectors import MeanOfVectors
from keras_transfer.results.automatic import DepthScore, LeftOut, LinearHead
from keras_transfer.runs.budget import Budget
from keras_transfer.runs.journal import Journal
from keras_transfer.runs.scoring import is_better, score_of

LINEAR, MIRRORED = "linear head", "mirrored linear head"
# Linear heads of so many folds, up to so many samples, take a second; what they give for samples that
# they have not seen is then nearly what the head of all samples gives.
_HEAD_FOLDS, _QUICK = 10, 2000


class Chosen(NamedTuple):
    """A linear head that was chosen.

    Attributes:
        x: the features that it is given of all samples.
        head: on how many depths it is, and its C.
        logits: what such heads give for all samples, none of which they have seen.
        mirrored: what a pass over the mirror images has kept, if they are views of the model; or None.
        scores: of the heads that were compared.
        left_out: what there was no time for.
        about: the head in words and numbers.
    """

    x: Any
    head: Any
    logits: np.ndarray
    mirrored: Seen | None
    scores: tuple[DepthScore, ...]
    left_out: tuple[LeftOut, ...]
    about: LinearHead


class Asked(NamedTuple):
    """What a linear head is chosen for, and how.

    Attributes:
        model: the classifier.
        loader: the images.
        seen: what a pass over them has kept.
        views: whether mirror images are tried.
        folds: how many folds there are for more than some samples.
        class_weight: of the losses of a class's samples, by its index.
        seed: decides the folds.
        folder: for features.
        batch_size: images that are computed at a time.
        verbose: as `verbosity` returns it.
    """

    model: keras.Model
    loader: Loader
    seen: Seen
    views: bool
    folds: int
    class_weight: dict[int, float] | None
    seed: int
    folder: str | os.PathLike[str]
    batch_size: int
    verbose: int


@contextlib.contextmanager
def chosen_head(asked: Asked, budget: Budget, journal: Journal) -> Iterator[Chosen]:
    """Give the linear head of the lowest log-loss for samples that it has not seen.

    With mirror images it is given the mean of both features, and takes two passes for a prediction. That
    is taken if it is better beyond chance.
    """
    seen, verbose = asked.seen, asked.verbose
    say(verbose, "Fitting linear heads")
    began = budget.spent
    first = _fitted(asked, seen.head)
    needed = budget.spent - began + len(seen.labels) * budget.an_image
    samples, shared = np.arange(len(seen.labels)), (seen.labels, asked.loader.groups)
    score = score_of(LINEAR, samples, first.logits, first.logits, *shared)
    first = first._replace(scores=(score,))
    if not asked.views:
        yield first
        return
    fits = journal.decided(MIRRORED, lambda: {"fits": budget.fits(needed)})["fits"]
    if not fits:
        yield first._replace(left_out=(LeftOut(MIRRORED, budget.in_all(needed)),))
        return
    say(verbose, "Trying: mirror images, too")
    began = budget.spent
    with one_pass(
        asked.model, asked.loader, asked.folder, asked.batch_size, verbose, flip=True
    ) as mirrored:
        both = _fitted(asked, MeanOfVectors(seen.head, mirrored.head))
        other = score_of(MIRRORED, samples, both.logits, first.logits, *shared)
        other = replace(other, seconds=budget.spent - began)
        taken = both._replace(mirrored=mirrored) if is_better(other) else first
        yield taken._replace(scores=(score, other))


def _fitted(asked: Asked, x: Any) -> Chosen:
    """Return the best head on some features."""
    from keras_transfer.features.probe import linear_fit
    from keras_transfer.features.probe.head_choice import choose_head

    y, widths, groups = asked.seen.labels, asked.seen.widths, asked.loader.groups
    parts = linear_fit.fold_count(y, _HEAD_FOLDS, groups) if len(y) <= _QUICK else asked.folds
    folds = list(linear_fit.fold_indices(y, parts, asked.seed, groups))
    head = choose_head(x, y, widths, folds, asked.class_weight, groups)
    logits = np.empty((len(y), head.choice.logits[0].shape[1]))
    for part, (_, held_back) in zip(head.choice.logits, folds, strict=True):
        logits[held_back] = part
    about = LinearHead(head.choice.value, head.choice.accuracies, head.depths, len(widths))
    return Chosen(x, head, logits, None, (), (), about)
