"""The commands on a table, an archive and shards instead of a folder of classes."""

import csv
import json
import shutil

import pytest
from folders import SMALL


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
