"""The examples on flowers and on a training loop of one's own run, and show what they say."""

import importlib.util
import json
import math
import runpy

import keras
import numpy as np
import pytest
from PIL import Image
from scripts import EXAMPLES, run, start

import keras_transfer as kt

BACKENDS = ("tensorflow", "torch", "jax")


def succeeded(done):
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stderr, done.stderr
    return done.stdout


def failed(done):
    """Return the last line that a user reads, after checking that there is no more to it."""
    assert done.returncode in (1, 2), done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


def rows(text, title):
    """Return the cells of the table under a title, by the first of each row."""
    body = text[text.index(title) :].split("┡")[1].split("└")[0]
    found = [[cell.strip() for cell in line.strip("│").split("│")] for line in body.splitlines()[1:]]
    return {cells[0]: cells[1:] for cells in found if len(cells) > 1}


def is_png(path):
    with Image.open(path) as image:
        image.load()  # all of it is there
        return image.format == "PNG" and min(image.size) > 200


def drawn_flowers(*arguments, **options):
    return runpy.run_path(str(EXAMPLES / "flowers_compare.py"))["draw_flowers"](*arguments, **options)


# --- flowers_compare.py ---------------------------------------------------------------------------

PICTURES = {"curves.png", "rates.png", "predictions.png"}


@pytest.mark.slow
def test_flowers_compare(tmp_path):
    folder = tmp_path / "run"
    text = succeeded(run("flowers_compare.py", "--quick", "--output", folder))

    # What is written, each of it whole.
    assert {path.name for path in folder.iterdir()} == {"vgg16", "resnet50", "comparison.png"}
    assert is_png(folder / "comparison.png")
    lowest = {}
    for name in ("vgg16", "resnet50"):
        files = {path.name for path in (folder / name).iterdir()}
        assert files == PICTURES | {"model.keras", "history.json"}
        assert all(is_png(folder / name / picture) for picture in PICTURES)

        # Both stages, as the article has them.
        written = json.loads((folder / name / "history.json").read_text(encoding="utf-8"))
        assert {len(values) for values in written["history"].values()} == {3 + 2}
        head, everything = (phase["settings"] for phase in written["phases"])
        assert (head["train"], head["epochs"], head["learning_rate"]) == ("head", 3, 1e-3)
        assert (everything["train"], everything["epochs"], everything["learning_rate"]) == (
            ("all", 2, 1e-4)
        )
        assert {head["optimizer"], everything["optimizer"]} == {"AdamW"}
        assert {head["augmentation"], everything["augmentation"]} == {"standard"}
        assert everything["batch_norm"] == "train"
        lowest[name] = everything["multipliers"]["block1_conv1/kernel"]
    assert lowest == {"vgg16": 1e-3, "resnet50": pytest.approx(1 / 27)}

    # The table: the accuracies are those of images that neither trained nor chose.
    assert "VGG16" in rows(text, "The backbones that are compared")
    assert "32 images train, 32 choose the epoch, 32 are reported" in " ".join(text.split())
    images, labels = drawn_flowers(8, seed=2)
    table = rows(text, "Accuracy on 32 images that chose nothing")
    assert list(table) == ["vgg16", "resnet50"]
    for name, (head, tuned, gain, parameters, minutes) in table.items():
        model = keras.models.load_model(folder / name / "model.keras")
        said = model.predict(images, verbose=0).argmax(axis=1)
        assert float(tuned) == pytest.approx(100 * np.mean(said == labels), abs=0.05)
        assert float(gain) == pytest.approx(float(tuned) - float(head), abs=0.1)
        assert int(parameters.replace(",", "")) == model.count_params()
        assert 0 <= float(minutes) < 10
        assert kt.class_names(folder / name / "model.keras")[0] == "3 petals"


def test_flowers_are_the_same_each_time():
    (first, labels), (second, _) = drawn_flowers(3, seed=1), drawn_flowers(3, seed=1)
    assert first.shape == (12, 32, 32, 3)
    assert np.array_equal(first, second)
    assert np.bincount(labels).tolist() == [3, 3, 3, 3]
    assert not np.array_equal(first, drawn_flowers(3, seed=2)[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backbones", "vgg61"], "did you mean VGG19, VGG16?"),
        (["--backbones", "vgg16", "--folder", "nowhere"], "there is no folder"),
        (["--weights", "file.h5"], "one backbone"),
        (["--backbones", "vgg16,vgg16"], "twice"),
        (["--folder", "x", "--split", "large"], "not allowed"),
        (["--quick", "--weights", "file.h5"], "leave --weights out"),
        (["--seeds", 0], "--seeds must be at least 1"),
    ],
)
@pytest.mark.slow
def test_flowers_compare_with_mistakes(tmp_path, arguments, message):
    done = run("flowers_compare.py", *arguments, "--output", tmp_path / "run")
    assert message in failed(done)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_flowers_compare_wants_the_same_classes(tmp_path, rng):
    for part, names in (("train", ("aster", "rose")), ("val", ("aster", "tulip"))):
        for name in names:
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for number in range(5):
                pixels = rng.integers(0, 256, (32, 32, 3), "uint8")
                Image.fromarray(pixels).save(folder / f"{number}.png")
    done = run("flowers_compare.py", "--quick", "--folder", tmp_path, "--output", tmp_path / "run")
    assert "must have the same classes" in failed(done)


# --- your_own_loop.py -----------------------------------------------------------------------------


def losses_and_changes(text):
    """Return of each way its loss, the norm of the change of the weights, and how far off it is."""
    table = rows(text, "The same training in three ways")
    assert list(table) == ["own loop", "own loop, cached", "model.fit"]
    return {way: [float(cell) for cell in cells[:3]] for way, cells in table.items()}


@pytest.fixture(scope="module")
def own_loop(tmp_path_factory):
    """Return what the example prints on this backend, and where it has written."""
    folder = tmp_path_factory.mktemp("loop")
    return succeeded(run("your_own_loop.py", "--quick", "--output", folder)), folder


@pytest.mark.slow
def test_own_loop_does_what_fit_does(own_loop):
    text, folder = own_loop
    assert f"on {keras.backend.backend()}" in text
    found = losses_and_changes(text)
    loss, change, _ = found["own loop"]
    assert loss < math.log(8)  # of eight classes that it can't tell apart
    assert change > 0.1
    for way in ("own loop, cached", "model.fit"):
        assert found[way][:2] == pytest.approx([loss, change], rel=1e-6)
        assert found[way][2] < 1e-6
    assert {path.name for path in folder.iterdir()} == {"loop.png"}
    assert is_png(folder / "loop.png")
    # What trained in the second stage, at which rates.
    second = text.split("block3_conv")[-1].split()
    assert second[:4] == ["block3", "9,248", "yes", second[3]]
    predictions = text.split("predictions")[-1].split()
    assert float(predictions[3]) == pytest.approx(3 * float(second[3]), rel=1e-2)


@pytest.mark.slow
def test_own_loop_is_the_same_on_another_backend(own_loop, tmp_path):
    others = [name for name in BACKENDS if name != keras.backend.backend()]
    installed = [name for name in others if importlib.util.find_spec(name)]
    if not installed:
        pytest.skip("no other backend is installed")
    other = succeeded(
        start("your_own_loop.py", "--quick", "--backend", installed[0], "--output", tmp_path)
    )
    assert f"on {installed[0]}" in other
    here, there = losses_and_changes(own_loop[0]), losses_and_changes(other)
    for way, values in here.items():
        assert there[way][:2] == pytest.approx(values[:2], rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--folder", "nowhere"], "there is no folder"),
        (["--weights", "no.h5"], "there is no file"),
        (["--epochs", 0, 1], "epochs must be at least 1"),
    ],
)
def test_own_loop_with_mistakes(tmp_path, arguments, message):
    done = run("your_own_loop.py", "--quick", *arguments, "--output", tmp_path / "run")
    assert message in failed(done)
    assert not (tmp_path / "run").exists()
