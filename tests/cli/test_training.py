"""`train` and `compare`."""

import json

import numpy as np
import pytest
from folders import SMALL, Image, write_images

import keras_transfer as kt


class TestTrain:
    def test_writes_a_model_that_can_be_used(self, run_folder):
        model = kt.load_model(run_folder / "model.keras")
        assert kt.class_names(model) == ["dark", "light, very"]
        assert kt.calibration.of(model).coverage == 0.9
        images = np.stack([np.full((32, 32, 3), shade) for shade in (30, 210)])
        assert model.predict(images, verbose=0).argmax(axis=1).tolist() == [0, 1]

    def test_writes_what_was_measured(self, run_folder):
        metrics = json.loads((run_folder / "metrics.json").read_text())
        assert metrics["training_images"] == {"dark": 16, "light, very": 16}
        assert metrics["test"]["samples"] == 8
        assert metrics["test"]["accuracy"] == 1.0
        assert metrics["scores"][0]["samples"] == 32  # nothing was chosen on the eight others
        assert metrics["backbone"] == "mobilenet"

    def test_draws_curves(self, run_folder):
        with Image.open(run_folder / "curves.png") as image:
            assert min(image.size) > 300
            assert len(image.convert("RGB").getcolors(10**6)) > 10

    def test_writes_a_report(self, run_folder):
        text = (run_folder / "report.html").read_text(encoding="utf-8")
        for part in ("light, very", "keras-transfer", "32 images for training, 8 measured on"):
            assert part in text

    def test_leaves_an_earlier_run_alone(self, run_folder, photos, keras_transfer):
        before = (run_folder / "model.keras").read_bytes()
        result = keras_transfer("train", photos, *SMALL, "--output", run_folder)
        assert result.exit_code == 1
        assert "--overwrite" in result.stderr
        assert (run_folder / "model.keras").read_bytes() == before

    def test_a_dry_run_shows_the_plan_and_writes_nothing(self, photos, keras_transfer, tmp_path):
        result = keras_transfer(
            "train", photos, *SMALL, "--output", tmp_path / "new", "--dry-run", "--quiet"
        )
        assert result.exit_code == 0, result.output
        for part in ("linear head", "Small (32 images, 16 a class)", "calibrates"):
            assert part in " ".join(result.stdout.split())
        assert not (tmp_path / "new").exists()

    def test_a_recipe_instead(self, photos, keras_transfer, tmp_path):
        result = keras_transfer(
            *("train", photos, *SMALL, "--output", tmp_path, "--recipe", "one_cycle", "--quiet")
        )
        assert result.exit_code == 0, result.output
        metrics = json.loads((tmp_path / "metrics.json").read_text())
        assert [phase["name"] for phase in metrics["fine_tuning"]["phases"]] == ["head", "everything"]
        assert metrics["chosen"] == "phases"

    def test_a_recipe_shown(self, photos, keras_transfer, tmp_path):
        result = keras_transfer("train", photos, *SMALL, "--recipe", "layerwise_decay", "--dry-run")
        assert result.exit_code == 0, result.output
        assert "everything" in result.stdout
        assert "0.0001" in result.stdout

    def test_val_is_what_is_reported(self, keras_transfer, tmp_path):
        for part, count in (("train", 6), ("val", 3)):
            for shade, name in ((0, "a"), (180, "b")):
                write_images(tmp_path / "parts" / part / name, shade, count, first=shade)
        result = keras_transfer(
            "train", tmp_path / "parts", *SMALL, "--output", tmp_path / "out", "--quiet"
        )
        assert result.exit_code == 0, result.output
        metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
        assert metrics["training_images"] == {"a": 6, "b": 6}
        assert metrics["test"]["samples"] == 6


class TestCompare:
    def test_shows_what_each_reaches(self, photos, keras_transfer, tmp_path):
        arguments = [each for each in SMALL if each not in ("--backbone", "mobilenet")]
        names = "mobilenet,mobilenet_v2"
        result = keras_transfer(
            *("compare", photos, "--backbones", names, *arguments, "--output", tmp_path, "--quiet")
        )
        assert result.exit_code == 0, result.output
        for name in names.split(","):
            assert name in result.stdout
            assert (tmp_path / name / "model.keras").exists()

    def test_one_backbone_is_no_comparison(self, photos, keras_transfer):
        result = keras_transfer("compare", photos, "--backbones", "mobilenet")
        assert result.exit_code == 1
        assert "at least two names" in result.stderr


@pytest.mark.parametrize("command", ["train", "lr"])
class TestMistakes:
    @pytest.fixture(autouse=True)
    def _leaves_nothing_behind(self, tmp_path_factory, monkeypatch):
        here = tmp_path_factory.mktemp("here")
        monkeypatch.chdir(here)
        yield
        assert not list(here.iterdir())

    def test_no_such_folder(self, command, keras_transfer, photos):
        result = keras_transfer(command, photos.parent / "nowhere", *SMALL)
        assert result.exit_code == 1
        assert "there is no folder" in result.stderr
        assert "Traceback" not in result.output

    def test_an_empty_folder(self, command, keras_transfer, tmp_path):
        result = keras_transfer(command, tmp_path, *SMALL)
        assert result.exit_code == 1
        assert "a folder for each class" in " ".join(result.stderr.split())

    def test_one_class(self, command, keras_transfer, tmp_path):
        write_images(tmp_path / "one" / "only", 0, 10)
        result = keras_transfer(command, tmp_path / "one", *SMALL)
        assert result.exit_code == 1
        assert "2" in result.stderr or "two" in result.stderr

    def test_a_backbone_nearly_right(self, command, keras_transfer, photos):
        result = keras_transfer(command, photos, "--backbone", "mobilenetv22", "--weights", "none")
        assert result.exit_code == 1
        assert "did you mean" in result.stderr

    def test_a_damaged_image(self, command, keras_transfer, tmp_path):
        for shade, name in ((0, "a"), (180, "b\nnew line")):
            write_images(tmp_path / "set" / name, shade, 6)
        (tmp_path / "set" / "a" / "broken.jpg").write_text("no image")
        result = keras_transfer(command, tmp_path / "set", *SMALL)
        assert result.exit_code == 1
        assert "broken.jpg" in result.stderr
        assert "1 of 13" in " ".join(result.stderr.split())


def test_unknown_recipe(keras_transfer, photos):
    result = keras_transfer("train", photos, "--recipe", "step_decoy")
    assert result.exit_code == 2
    assert "did you mean step_decay?" in " ".join(result.stderr.replace("│", " ").split())  # in a box


def test_classes_that_differ(keras_transfer, tmp_path):
    for part, names in (("train", "ab"), ("val", "ac")):
        for name in names:
            write_images(tmp_path / part / name, 0, 4)
    result = keras_transfer("train", tmp_path, *SMALL)
    assert result.exit_code == 1
    assert "['b', 'c']" in " ".join(result.stderr.split())


def test_broken_images_left_out(keras_transfer, tmp_path):
    for shade, name in ((0, "a"), (180, "b\nnew line")):
        write_images(tmp_path / "set" / name, shade, 8)
    (tmp_path / "set" / "a" / "broken\n.jpg").write_text("no image")
    result = keras_transfer(
        "train", tmp_path / "set", *SMALL, "--output", tmp_path / "out", "--skip-broken", "--quiet"
    )
    assert result.exit_code == 0, result.output
    assert "broken\\n.jpg" in result.stdout
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert list(metrics["training_images"]) == ["a", "b\nnew line"]
    assert len(metrics["skipped"]) == 1


@pytest.mark.parametrize("command", ["train", "compare", "lr", "rank"])
def test_broken_images_stop_what_was_not_told_to_leave_them_out(command, keras_transfer, tmp_path):
    for shade, name in ((0, "a"), (180, "b")):
        write_images(tmp_path / "set" / name, shade, 8)
    (tmp_path / "set" / "a" / "broken.jpg").write_text("no image")
    names = ("--backbones", "mobilenet,mobilenet_v2")
    options = SMALL[2:] if command in ("compare", "rank") else SMALL
    several = names if command in ("compare", "rank") else ()
    result = keras_transfer(command, tmp_path / "set", *several, *options)
    assert result.exit_code == 1
    assert "broken.jpg" in " ".join(result.stderr.split())


def test_no_space_left(keras_transfer, photos, tmp_path, monkeypatch):
    import errno

    from keras_transfer.runs import automatic

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(automatic, "train", full)
    result = keras_transfer("train", photos, *SMALL, "--output", tmp_path)
    assert result.exit_code == 1
    assert "No space left" in result.stderr
    assert list(tmp_path.iterdir()) == []
