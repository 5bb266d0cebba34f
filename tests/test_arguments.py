"""Values that arguments can't have, made from what they may be, and those at the ends of that.

A new argument that is a number, an integer or a choice belongs into `CALLS`. What else an argument can't
be is tested beside what it does.
"""

import math
import re
from typing import NamedTuple

import numpy as np
import pytest

import keras_transfer as kt
from keras_transfer.results.evaluation import Calibration
from keras_transfer.tasks import scores

SENSELESS = ("1", True, [1], object)
ROWS, LABELS = [[0.9, 0.1], [0.2, 0.8]], [0, 1]
IMAGES = np.zeros((2, 4, 4, 3), "uint8"), np.arange(2)


class Number(NamedTuple):
    """A real number in an interval; `closed` are the ends that are part of it."""

    low: float = 0
    high: float = math.inf
    closed: str = "neither"
    optional: bool = False  # None may be given

    def bad(self):
        for end, outwards in ((self.low, -math.inf), (self.high, math.inf)):
            if end not in self.ends():
                yield end
            if math.isfinite(end):
                yield math.nextafter(end, outwards)
        yield from (math.nan, -math.inf, 1j)

    def ends(self):
        return {"left": [self.low], "right": [self.high], "both": [self.low, self.high]}.get(
            self.closed, []
        )

    def good(self):
        return [
            kind(end) for end in self.ends() for kind in (float, np.float32) if float(kind(end)) == end
        ]


class Integer(NamedTuple):
    """An integer of at least `low`, and at most `high`."""

    low: int
    high: int | None = None
    optional: bool = False

    def bad(self):
        yield from (self.low - 1, float(self.low), self.low + 0.5)
        if self.high is not None:
            yield self.high + 1

    def good(self):
        return [
            kind(end) for end in (self.low, self.high) if end is not None for kind in (int, np.int64)
        ]


class Choice(NamedTuple):
    """One of some names."""

    names: tuple[str, ...]
    optional: bool = False

    def bad(self):
        yield from (f"{self.names[0]}s", "", 3)

    def good(self):
        return list(self.names)


ONE, NONE = Integer(1), Integer(0)
POSITIVE, FRACTION = Number(), Number(high=1)
FROM_0, FROM_0_BELOW_1 = Number(closed="left"), Number(high=1, closed="left")
EPOCHS = Number(0.01, closed="left", optional=True)  # where the length is not in steps
ABOVE_0_TO_1, FROM_1 = Number(high=1, closed="right"), Number(1, closed="left")
SWEEP = {
    "min_lr": POSITIVE,
    "max_lr": POSITIVE,
    "num_steps": Integer(5),
    "smoothing": FROM_0_BELOW_1,
    "stop_factor": Number(1, closed="right"),  # infinity never stops
    "sweep": Choice(("exponential", "linear")),
}
TASK = Choice(("single-label", "multi-label"))
HEAD = {"method": Choice(("logistic", "svm")), "folds": Integer(2), "seed": NONE, "batch_size": ONE}

# What makes sense but for one argument at a time, and what this may be.
CALLS = [
    (
        kt.schedules.Cyclic,
        {"base_lr": 0.1, "max_lr": 0.2, "step_size": 5},
        {
            "base_lr": FROM_0,
            "max_lr": Number(0.1),
            "step_size": FROM_1,
            "mode": Choice(("triangular", "triangular2", "exp_range")),
            "gamma": ABOVE_0_TO_1,
        },
    ),
    (
        kt.schedules.WarmRestarts,
        {"max_lr": 0.2, "cycle_steps": 5},
        {
            "max_lr": POSITIVE,
            "cycle_steps": FROM_1,
            "cycle_mult": FROM_1,
            "min_lr": FROM_0,
            "cycle_decay": ABOVE_0_TO_1,
        },
    ),
    (
        kt.schedules.OneCycle,
        {"max_lr": 0.2, "total_steps": 5},
        {
            "max_lr": POSITIVE,
            "total_steps": Number(2, closed="left"),
            "pct_start": FROM_0_BELOW_1,
            "anneal_strategy": Choice(("cosine", "linear")),
            "div_factor": FROM_1,
            "final_div_factor": FROM_1,
        },
    ),
    (
        kt.callbacks.CyclicLR,
        {"base_lr": 0.1, "max_lr": 0.2, "step_epochs": 2},
        {"step_epochs": EPOCHS, "first_epoch": NONE},
    ),
    (
        kt.callbacks.WarmRestartsLR,
        {"max_lr": 0.2, "cycle_epochs": 2},
        {"cycle_epochs": EPOCHS, "first_epoch": NONE},
    ),
    (
        kt.callbacks.OneCycleLR,
        {"max_lr": 0.2, "total_epochs": 2},
        {"total_epochs": EPOCHS, "first_epoch": NONE},
    ),
    (kt.callbacks.LRFinder, {}, SWEEP),
    (kt.callbacks.GradualUnfreezing, {}, {"every": ONE, "first_epoch": NONE}),
    (
        kt.callbacks.SnapshotEnsemble,
        {"output": "snapshots", "cycles": 2},
        {"cycles": ONE, "first_epoch": NONE},
    ),
    (
        Calibration,
        {"temperature": 1.5, "threshold": 0.2, "coverage": 0.9, "samples": 10},
        {
            "temperature": POSITIVE,
            "threshold": Number(high=1, closed="both"),
            "coverage": FRACTION,
            "samples": ONE,
        },
    ),
    (
        scores.conformal_threshold,
        {"probabilities": ROWS, "labels": LABELS, "coverage": 0.9},
        {"coverage": FRACTION},
    ),
    *(
        (
            function,
            {"probabilities": ROWS, "threshold": 0.5},
            {"threshold": Number(high=1, closed="both")},
        )
        for function in (scores.prediction_sets, scores.unsure)
    ),
    (
        scores.expected_calibration_error,
        {"probabilities": ROWS, "labels": LABELS},
        {"bins": ONE},
    ),
    (
        kt.CacheOptions,
        {},
        {
            "views": Integer(1, optional=True),
            "dtype": Choice(("float32", "float16", "bfloat16")),
            "compute_dtype": Choice(("float16", "bfloat16"), optional=True),
        },
    ),
    (
        kt.Phase,
        {"name": "p", "epochs": 1},
        {
            "epochs": ONE,
            "learning_rate": Number(closed="left", optional=True),
            "batch_norm": Choice(("freeze", "train")),
        },
    ),
    (kt.EMA, {"decay": 0.9}, {"decay": FRACTION}),
    (kt.SWA, {"epochs": 2}, {"epochs": Integer(2)}),
    (kt.L2SP, {"alpha": 0.1}, {"alpha": FROM_0, "beta": FROM_0}),
    (
        kt.Loader,
        {"data": IMAGES},
        {
            "batch_size": ONE,
            "seed": Integer(0, 2**32 - 1),
            "num_threads": Integer(0, optional=True),
            "sampling": Choice(("balanced",), optional=True),
        },
    ),
    (kt.Loader(IMAGES).split, {}, {"fraction": FRACTION}),
    *(
        (
            function,
            {argument: "nowhere", "image_size": 4},
            {"on_error": Choice(("raise", "skip", "defer")), "max_pixels": Integer(1, optional=True)},
        )
        for function, argument in (
            (kt.data.from_directory, "directory"),
            (kt.data.from_huggingface, "dataset"),
            (kt.data.from_table, "table"),
            (kt.data.from_webdataset, "shards"),
        )
    ),
    (
        kt.data.from_webdataset,
        {"shards": "nowhere", "image_size": 4},
        {"label": Choice(("cls", "json", "txt"), optional=True)},
    ),
    (
        kt.data.load,
        {"split": "train", "image_size": 4},
        {"name": Choice(("cifar10", "cifar100", "hotdog", "tf_flowers", "oxford_flowers102"))},
    ),
    (
        kt.classifier,
        {"backbone": "vgg16", "num_classes": 3},
        {
            "num_classes": Integer(2),
            "task": TASK,
            "dropout": FROM_0_BELOW_1,
            "pooling": Choice(("avg", "max", "flatten", "token", "token+avg"), optional=True),
            "seed": Integer(0, optional=True),
        },
    ),
    (
        kt.replace_head,
        {"model": None, "num_classes": 3},
        {"num_classes": Integer(2), "task": TASK._replace(optional=True)},
    ),
    (kt.list_backbones, {}, {"source": Choice(("applications", "cached", "hub", "transformers"))}),
    (
        kt.fit_linear_head,
        {"model": None, "train": None},
        {**HEAD, "C": Number(optional=True), "logit_adjustment": FROM_0},
    ),
    (
        kt.features.cross_validate_head,
        {"model": None, "data": None},
        {**HEAD, "C": Number(optional=True)},
    ),
    (
        kt.rank_backbones,
        {"names": None, "data": None},
        {
            **HEAD,
            "method": Choice(("logme", "probe", "ridge")),
            "minutes": Number(optional=True),
        },
    ),
    (
        kt.features.extract,
        {"prefix": None, "data": None, "cache": None},
        {"engine": Choice(("local", "ray"))},
    ),
    (
        kt.multipliers.geometric,
        {"model": None},
        {"factor": POSITIVE, "per": Choice(("group", "layer"))},
    ),
    (
        kt.multipliers.linear,
        {"model": None},
        {"lowest": POSITIVE},
    ),
    (kt.multipliers.span, {"model": None, "low": 1.0, "high": 1.0}, {"low": POSITIVE, "high": POSITIVE}),
    (kt.multipliers.head, {"model": None}, {"factor": POSITIVE}),
    (kt.recipes.warm_restarts, {"model": None}, {"cycles": ONE}),
    (kt.recipes.step_decay, {}, {"train": Choice(("all", "head"))}),
    (kt.recipes.faster_head, {"model": None}, {"batch_size": ONE}),
    (kt.recipes.layerwise_decay, {"model": None}, {"rates": Choice(("geometric", "linear"))}),
]
CASES = [
    pytest.param(call, given, argument, allowed, id=f"{call.__name__}-{argument}")
    for call, given, arguments in CALLS
    for argument, allowed in arguments.items()
]


@pytest.mark.parametrize(("call", "given", "argument", "allowed"), CASES)
def test_bad_values(call, given, argument, allowed):
    values = [*allowed.bad(), *SENSELESS, *(() if allowed.optional else (None,))]
    for value in values:
        integer = hasattr(value, "__index__") and value is not True
        kind = TypeError if isinstance(allowed, Integer) and not integer else ValueError
        received = re.escape(f"Received: {argument}={value!r}")
        with pytest.raises(kind, match=rf"^{argument} must be .*{received}$") as caught:
            call(**given | {argument: value})
        if isinstance(allowed, Choice):
            assert all(repr(name) in str(caught.value) for name in allowed.names)


@pytest.mark.parametrize(
    ("call", "given", "argument", "allowed"),
    [case for case in CASES if isinstance(case.values[0], type)],
)
def test_values_at_the_ends_are_taken(call, given, argument, allowed):
    for value in allowed.good():
        made = call(**given | {argument: value})
        if argument in vars(made):
            assert vars(made)[argument] == value
            assert type(vars(made)[argument]) in (int, float, str)
