"""Every function that takes data takes the same kinds of it, and finds the same in them."""

import inspect
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from initial_weights import numpy_initial_weights
from keras import layers

import keras_transfer as kt

SHAPE, CLASSES, SAMPLES = (8, 8, 3), 3, 24
PHASES = [kt.Phase("head", 1, train="head", optimizer="sgd")]


class Batches(keras.utils.PyDataset):
    """Arrays in batches."""

    def __init__(self, images, labels, size):
        super().__init__()
        self.images, self.labels, self.size = images, labels, size

    def __len__(self):
        return -(-len(self.images) // self.size)

    def __getitem__(self, index):
        rows = slice(self.size * index, self.size * (index + 1))
        return self.images[rows], self.labels[rows]


@pytest.fixture(scope="module")
def arrays():
    """Return noise of which each class is brighter in one channel."""
    rng = np.random.default_rng(0)
    y = np.arange(SAMPLES) % CLASSES
    x = rng.uniform(0, 120, (SAMPLES, *SHAPE))
    x[np.arange(SAMPLES), :, :, y] += 60
    return x.astype("uint8"), y


@pytest.fixture
def model():
    inputs = keras.Input(SHAPE)
    x = layers.Rescaling(1 / 255)(inputs)
    with numpy_initial_weights():
        x = layers.Conv2D(5, 3, activation="relu", name="conv")(x)
        return kt.classifier(keras.Model(inputs, x, name="base"), CLASSES)


def swept(model, data):
    model.compile("sgd", "sparse_categorical_crossentropy")
    return kt.find_lr(
        model, data, num_steps=5, max_lr=1e-3, batch_size=10, shuffle=False, verbose=0
    ).losses


def tuned(model, data):
    kt.fine_tune(model, data, data, PHASES, batch_size=SAMPLES, verbose=0)
    return model.get_weights()[-2]


def linear(model, data):
    return kt.fit_linear_head(model, data, data, C=1.0, verbose=0).get_weights()[-2]


def cached(model, data, folder, build):
    prefix, _ = kt.split_model(model, "conv")
    loader = build(prefix, data, folder)
    return loader.replace(shuffle=False).samples(0, SAMPLES)[0]


def reported(model, data, folder):
    result = kt.fine_tune(model, (np.zeros((3, *SHAPE)), np.arange(3)), phases=PHASES[:1], verbose=0)
    kt.report(result, data, folder / "report.html", train=data)
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", (folder / "report.html").read_text(encoding="utf-8"))
    assert "0,8,8,1,8,8,2,8,8" in ",".join(cells)  # each class, for training and measured
    return [float(re.match(r"[\d.]+", cell)[0]) for cell in cells if re.fullmatch(r"[\d.]+\s%", cell)]


def titles(figure):
    return np.array(
        [float(number) for axes in figure.axes for number in re.findall(r"\d+", axes.get_title())]
    )


# What each function finds, as numbers: of a model, data and a folder.
FIT = {"fine_tune": lambda model, data, folder: tuned(model, data), "find_lr": lambda *g: swept(*g[:2])}
FUNCTIONS = {
    "fit_linear_head": lambda model, data, folder: linear(model, data),
    "features.cross_validate_head": lambda model, data, folder: (
        kt.features.cross_validate_head(model, data, C=1.0, verbose=0).accuracies
    ),
    "advise": lambda model, data, folder: [
        each.logme for each in kt.advise(model, data, verbose=0).layers
    ],
    "rank_backbones": lambda model, data, folder: [
        row.logme for row in kt.rank_backbones({"it": model}, data, verbose=0)
    ],
    "FeatureCache.build": lambda model, data, folder: cached(
        model,
        data,
        folder,
        lambda prefix, *rest: kt.FeatureCache(prefix, rest[1]).build(rest[0], verbose=0),
    ),
    "features.extract": lambda model, data, folder: cached(
        model, data, folder, lambda prefix, *rest: kt.features.extract(prefix, *rest, verbose=0)
    ),
    "evaluation.evaluate": lambda model, data, folder: (
        kt.evaluation.evaluate(model, data, verbose=0).probabilities
    ),
    "calibration.calibrate": lambda model, data, folder: [
        kt.calibration.calibrate(model, data, 0.7, verbose=0).temperature
    ],
    "automatic.propose": lambda model, data, folder: [
        each.logme for each in kt.automatic.propose(model, data, verbose=0).advice.layers
    ],
    "automatic.train": lambda model, data, folder: [
        score.accuracy for score in kt.automatic.train(model, data, augmentation=None, verbose=0).scores
    ],
    "automatic.follow": lambda model, data, folder: [
        kt.automatic.follow(model, data, PHASES, batch_size=SAMPLES, verbose=0).calibration.samples
    ],
    "report": reported,
    "plots.show_batch": lambda model, data, folder: titles(kt.plots.show_batch(data, count=SAMPLES)),
    "plots.show_predictions": lambda model, data, folder: titles(kt.plots.show_predictions(model, data)),
    "plots.top_losses": lambda model, data, folder: titles(kt.plots.top_losses(model, data)),
}


def same(find, model, arrays, folders, size=10):
    """Whether a function finds the same in each kind of data."""
    weights, found = model.get_weights(), []
    kinds = (arrays, kt.Loader(arrays, size, shuffle=False), Batches(*arrays, size))
    for number, data in enumerate(kinds):
        model.set_weights(weights)
        kt.calibration.forget_calibration(model)
        folder = folders / str(number)
        folder.mkdir()
        found.append(np.asarray(find(model, data, folder), "float64"))
    return found[0].size and all(np.allclose(other, found[0], 1e-4, 1e-5) for other in found[1:])


@pytest.mark.parametrize("name", [*FIT, "calibration.calibrate", "evaluation.evaluate"])
def test_of_what_keras_reads(name, model, arrays, tmp_path):
    size = SAMPLES if name == "fine_tune" else 10  # all at once, where a PyDataset is shuffled otherwise
    assert same({**FIT, **FUNCTIONS}[name], model, arrays, tmp_path, size)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_of_each_kind_the_same_is_found(name, model, arrays, tmp_path):
    if name.startswith(("report", "plots")):
        pytest.importorskip("matplotlib")
    assert same(FUNCTIONS[name], model, arrays, tmp_path)


WITH_A_MODEL = [name for name in [*FIT, *FUNCTIONS] if name != "plots.show_batch"]
TOLD = r"values from 0 to 0.7.* takes 0 to 255, .*value_range=\(0, 1\)\) makes .*='as is' says"


@pytest.mark.parametrize("name", WITH_A_MODEL)
def test_values_of_another_range_are_told_once(name, model, arrays, tmp_path, caplog):
    if name.startswith(("report", "plots")):
        pytest.importorskip("matplotlib")
    find, (x, y) = {**FIT, **FUNCTIONS}[name], arrays
    arguments = {"batch_size": SAMPLES if name == "fine_tune" else 10, "shuffle": False}
    weights = model.get_weights()

    def found(data):
        model.set_weights(weights)
        kt.calibration.forget_calibration(model)
        caplog.clear()
        return np.asarray(find(model, data, tmp_path), "float64")

    small = (x / 255).astype("float32")
    found(kt.Loader((small, y), **arguments))
    assert [bool(re.search(TOLD, record.getMessage())) for record in caplog.records] == [True]
    found(kt.Loader((small, y), value_range="as is", **arguments))
    assert not caplog.records
    wanted = found(kt.Loader((x, y), **arguments))
    assert not caplog.records
    np.testing.assert_allclose(
        found(kt.Loader((small, y), value_range=(0, 1), **arguments)), wanted, 1e-6
    )
    assert not caplog.records


@pytest.mark.parametrize("name", WITH_A_MODEL)
def test_values_of_another_range_are_told_of_a_data_set(name, model, arrays, tmp_path, caplog):
    if name.startswith(("report", "plots")):
        pytest.importorskip("matplotlib")
    small = (arrays[0] / 255).astype("float32"), arrays[1]
    {**FIT, **FUNCTIONS}[name](model, Batches(*small, SAMPLES), tmp_path)
    assert any(re.search(TOLD, record.getMessage()) for record in caplog.records)


@pytest.mark.parametrize("name", WITH_A_MODEL)
def test_integers_beyond_255_are_refused(name, model, arrays, tmp_path):
    if name.startswith(("report", "plots")):
        pytest.importorskip("matplotlib")
    data = arrays[0].astype("uint16") * 257, arrays[1]
    weights = model.get_weights()
    with pytest.raises(
        ValueError, match=r"takes 0 to 255, .* value_range=\(0, 65535\)\) makes .*uint16"
    ):
        {**FIT, **FUNCTIONS}[name](model, data, tmp_path)
    if name != "report":  # which trains before
        assert all(np.array_equal(a, b) for a, b in zip(weights, model.get_weights(), strict=True))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_other_kinds_are_refused(name, model, arrays, tmp_path):
    if name.startswith(("report", "plots")):
        pytest.importorskip("matplotlib")
    argument = "train" if name == "fit_linear_head" else "data"
    message = (
        rf"{argument} must be \(x, y\) arrays, a kt\.Loader or a keras\.utils\.PyDataset.* Received: "
    )
    for data in (arrays[0], iter([arrays]), list(arrays)):
        with pytest.raises(TypeError, match=message):
            FUNCTIONS[name](model, data, tmp_path)
    with pytest.raises(ValueError, match="if it is a tuple"):
        FUNCTIONS[name](model, (*arrays, arrays[1]), tmp_path)


def test_images_alone_lack_labels(model, arrays):
    message = r"must have labels, too: pass \(x, y\), .*Received: .*array of shape \(24, 8, 8, 3\)"
    for call in (
        lambda: kt.fine_tune(model, arrays[0], phases=PHASES, verbose=0),
        lambda: kt.fine_tune(model, arrays, arrays[0], phases=PHASES, verbose=0),
        lambda: kt.Loader(arrays[0]),
    ):
        with pytest.raises(TypeError, match=message):
            call()
    with pytest.raises(TypeError, match="labels are missing: pass"):
        kt.evaluation.evaluate(model, arrays[0], verbose=0)


@pytest.mark.parametrize("argument", ["train", "validation"])
@pytest.mark.parametrize("data", ["photos", Path("photos"), [1, 2], {"x": 1}, 0.2])
def test_what_is_no_data_is_refused(data, argument, model, arrays):
    message = rf"{argument} must be \(x, y\) arrays, .*Received: {argument} of type "
    with pytest.raises(TypeError, match=message):
        kt.fine_tune(model, **{"train": arrays, argument: data}, phases=PHASES, verbose=0)


def test_images_of_several_shapes(model, arrays):
    x, y = [*arrays[0][:2], np.zeros((9, 8, 3))], arrays[1][:3]
    objects = np.empty(3, object)
    objects[:] = x
    for images, received in ((x, "images of 2 shapes"), (objects, "an array of objects")):
        with pytest.raises(ValueError, match=rf"one shape; .*image_size=.*Received: {received}"):
            kt.fine_tune(model, (images, y), phases=PHASES, verbose=0)
    kt.fine_tune(model, kt.Loader(list(zip(x, y, strict=True)), image_size=8), phases=PHASES, verbose=0)
    with pytest.raises(TypeError, match=r"from_directory reads files\. Received: image 0 of dtype <U"):
        kt.Loader([("ant.jpg", 0)]).batch(0, 0)


def test_labels_that_are_text(model, arrays):
    names = np.array(["ant", "bee", "cat"])[arrays[1]]
    for data in ((arrays[0], names), Batches(arrays[0], names, 10)):
        with pytest.raises(TypeError, match="labels must be numbers. Received: labels of dtype <U3"):
            kt.fine_tune(model, data, phases=PHASES, verbose=0)


def test_labels_as_integers_and_as_rows(model, arrays):
    x, y = arrays
    rows = np.eye(CLASSES, dtype="float32")[y]
    weights, losses = model.get_weights(), []
    for labels in (y, rows):
        model.set_weights(weights)
        result = kt.fine_tune(model, (x, rows), (x, labels), PHASES, verbose=0)
        losses.append(result.history["val_loss"])
    assert losses[0] == pytest.approx(losses[1])
    with pytest.raises(ValueError, match="validation must have integers as labels, as train has"):
        kt.fine_tune(model, (x, y), (x, rows), PHASES, verbose=0)
    kt.fine_tune(model, kt.Loader((x, y), num_classes=3, one_hot=True), (x, rows), PHASES, verbose=0)


def test_they_are_called_alike():
    for name in [*FIT, *FUNCTIONS, "Loader", "callbacks.SnapshotEnsemble.averaged"]:
        function = kt
        for part in name.split("."):
            function = getattr(function, part)
        arguments = inspect.signature(function).parameters
        assert not {"x", "y", "source", "dataset", "images"} & arguments.keys()
        assert ({"train", "validation"} <= arguments.keys()) != ("data" in arguments)
