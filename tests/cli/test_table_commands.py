"""The commands on a table, an archive and shards instead of a folder of classes."""

import csv
import json
import shutil

import keras
import numpy as np
import pytest
from folders import SMALL, Image

import keras_transfer as kt
from keras_transfer.layers.about import attach_class_names
from keras_transfer.probabilities.thresholds import attach_thresholds


def told(result):
    """Return what a command says of an error, in one line."""
    return " ".join(result.stderr.split())


@pytest.fixture
def table(photos, tmp_path):
    """The same photos in a CSV file, by their names in one folder."""
    everything = tmp_path / "all"
    everything.mkdir()
    path = tmp_path / "labels.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("id", "species", "split"))
        for number, image in enumerate(sorted(photos.glob("*/*"))):
            shutil.copy(image, everything / f"{number:02}{image.suffix}")
            part = "test" if number % 4 == 0 else "train"
            rows.writerow((f"{number:02}", image.parent.name, part))
    return path


@pytest.mark.usefixtures("quick_pictures")
def test_train_and_evaluate(table, keras_transfer, tmp_path):
    options = ("--images", table.parent / "all")
    result = keras_transfer("train", table, *options, *SMALL, "--fast", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    line = "Reads images from column 'id', classes from column 'species', parts from column 'split'"
    assert line in result.stdout
    assert "Trains on train, reports on test" in result.stdout
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text("utf-8"))
    assert metrics["training_images"] == {"dark": 15, "light, very": 15}
    assert metrics["test"]["samples"] == 10
    model = tmp_path / "out" / "model.keras"
    result = keras_transfer("evaluate", model, table, *options, "--part", "test", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["accuracy"] == metrics["test"]["accuracy"]


def test_a_zip(photos, keras_transfer, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path))
    path = shutil.make_archive(str(tmp_path / "some"), "zip", photos)
    result = keras_transfer("train", path, *SMALL, "--dry-run", "--quiet")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--label-column", "specie"), "--label-column must be a column of .* did you mean species?"),
        (("--images", "nowhere"), "--images must be a folder of images; there is no folder 'nowhere'"),
        ((), "--images must be the folder in which the names of the images begin"),
    ],
)
def test_of_what_is_not_there(table, keras_transfer, options, message):
    result = keras_transfer("train", table, *SMALL, "--fast", *options)
    assert result.exit_code == 1
    assert all(part in told(result) for part in message.split(" .* "))


def test_columns_are_those_of_a_table(photos, keras_transfer):
    result = keras_transfer("train", photos, *SMALL, "--fast", "--label-column", "x")
    assert result.exit_code == 1
    assert "--label-column must be given with a table, a CSV or TSV file, alone" in told(result)


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """A model that tells green and red by their shares, and a table of images of these."""
    folder = tmp_path_factory.mktemp("several")
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255.0)(inputs))
    dense = keras.layers.Dense(2, name="predictions")
    model = keras.Model(inputs, keras.layers.Activation("sigmoid")(dense(x)))
    dense.set_weights([np.array([[0, 8.0], [8, 0], [0, 0]]), np.array([-6.0, -6])])
    attach_class_names(model, ["green", "red"])
    rows = [
        ("none", 0, 0, ""),
        ("r", 255, 0, "red"),
        ("g", 0, 255, "green"),
        ("y", 255, 255, "red|green"),
    ]
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "tags"), *((f"{n}.png", tags) for n, _, _, tags in rows)])
    for name, red, green, _ in rows:
        Image.new("RGB", (8, 8), (red, green, 0)).save(folder / f"{name}.png")
    model.save(folder / "model.keras")
    return folder


class TestSeveralLabels:
    OPTIONS = ("--label-column", "tags", "--label-separator", "|")

    def test_evaluate(self, several, keras_transfer):
        paths = several / "model.keras", several / "labels.csv"
        result = keras_transfer("evaluate", *paths, *self.OPTIONS, "--json")
        assert result.exit_code == 0, result.output
        found = json.loads(result.stdout)
        assert (found["samples"], found["mean_average_precision"], found["exact"]) == (4, 1.0, 1.0)
        result = keras_transfer("evaluate", *paths, *self.OPTIONS)
        assert "Mean average precision 100.0% on 4 images" in result.stdout

    def test_predict(self, several, keras_transfer):
        files = several / "model.keras", several / "none.png", several / "r.png", several / "y.png"
        result = keras_transfer("predict", *files, "--format", "json")
        assert result.exit_code == 0, result.output
        assert [sorted(row["labels"]) for row in json.loads(result.stdout)] == [
            [],
            ["red"],
            ["green", "red"],
        ]
        result = keras_transfer("predict", *files, "--format", "csv")
        header, none, red, both = csv.reader(result.stdout.splitlines())
        assert header == ["file", "labels", "probabilities"]
        assert (none[1:], red[1:]) == (["", ""], ["red", "0.8808"])
        assert sorted(both[1].split(" | ")) == ["green", "red"]
        result = keras_transfer("predict", *files)
        assert "red 88.1%" in result.stdout
        assert "none" in result.stdout

    def test_thresholds_decide_what_is_said(self, several, keras_transfer, tmp_path):
        model = kt.load_model(several / "model.keras")
        attach_thresholds(model, kt.calibration.Thresholds((0.001, 0.9), 4))
        model.save(tmp_path / "other.keras")
        result = keras_transfer(
            "predict", tmp_path / "other.keras", several / "r.png", "--format", "json"
        )
        assert json.loads(result.stdout)[0]["labels"] == ["green"]

    def test_data_of_one_label(self, several, keras_transfer):
        paths = several / "model.keras", several / "labels.csv"
        result = keras_transfer("evaluate", *paths, "--label-column", "tags", "--skip-broken")
        assert result.exit_code == 1
        result = keras_transfer("evaluate", *paths, "--label-column", "tags", "--label-separator", "+")
        assert result.exit_code == 1
        assert "--label-separator must stand in some cells" in told(result)

    def test_train_says_what_does(self, several, keras_transfer):
        result = keras_transfer("train", several / "labels.csv", *self.OPTIONS, *SMALL, "--fast")
        assert result.exit_code == 1
        assert "--label-separator must not be given to train" in told(result)
        assert "kt.fit_linear_head" in told(result)
