"""`train` and `compare`."""

import json
import os
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from folders import SMALL, Image, write_images

import keras_transfer as kt
from keras_transfer.cli.common import ByOption

pytestmark = pytest.mark.usefixtures("quick_pictures")


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

    def test_a_head_on_several_features(self, photos, keras_transfer, tmp_path):
        result = keras_transfer(
            *("train", photos, *SMALL, "--output", tmp_path, "--quiet"),
            *("--features", "conv_pw_6_relu, last", "--fast"),
        )
        assert result.exit_code == 0, result.output
        model = kt.load_model(tmp_path / "model.keras")
        widths = [model.get_layer(name).output.shape[-1] for name in ("conv_pw_6_relu", "avg_pool")]
        assert model.get_layer("predictions").kernel.shape == (sum(widths), 2)
        metrics = json.loads((tmp_path / "metrics.json").read_text())
        assert metrics["features"] == ["conv_pw_6_relu", "last"]

    def test_features_of_no_layer(self, photos, keras_transfer, tmp_path):
        result = keras_transfer(
            "train", photos, *SMALL, "--output", tmp_path / "new", "--features", "conv_pw_6_rel,last"
        )
        assert result.exit_code == 1
        assert "did you mean conv_pw_6_relu" in " ".join(result.stderr.split())
        assert not (tmp_path / "new").exists()

    def test_a_recipe_instead(self, photos, keras_transfer, tmp_path):
        result = keras_transfer(
            *("train", photos, *SMALL, "--output", tmp_path, "--recipe", "one_cycle", "--quiet")
        )
        assert result.exit_code == 0, result.output
        metrics = json.loads((tmp_path / "metrics.json").read_text())
        assert [phase["name"] for phase in metrics["fine_tuning"]["phases"]] == ["head", "everything"]
        assert metrics["chosen"] == "phases"

    @pytest.mark.parametrize("recipe", ["auto", "one_cycle"])
    def test_weights_of_classes(self, photos, keras_transfer, tmp_path, recipe):
        given = "light, very=2,dark=0.5" if recipe == "auto" else "balanced"
        run = ("train", photos, *SMALL, "--recipe", recipe, "--quiet", "--fast", "--output")
        result = keras_transfer(*run, tmp_path / "out", "--class-weight", given)
        assert result.exit_code == 0, result.output
        metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
        weights = {"light, very": 2.0, "dark": 0.5}
        assert metrics["class_weight"] == (weights if recipe == "auto" else "balanced")

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ("light", "class-weight must be 'balanced', or names of classes with numbers"),
            ("dark=two", "class-weight must be 'balanced', or names of classes with numbers"),
            ("dark=2,dark=3", "class-weight must have each class once"),
            ("dakr=2", "'dakr' is none; did you mean dark?"),
        ],
    )
    def test_weights_of_no_class(self, photos, keras_transfer, tmp_path, given, message):
        run = ("train", photos, *SMALL, "--fast", "--quiet", "--output", tmp_path / "out")
        result = keras_transfer(*run, "--class-weight", given)
        assert result.exit_code == 1
        assert message in " ".join(result.stderr.split())
        assert not (tmp_path / "out").exists()

    def test_a_recipe_shown(self, photos, keras_transfer, tmp_path):
        result = keras_transfer("train", photos, *SMALL, "--recipe", "layerwise_decay", "--dry-run")
        assert result.exit_code == 0, result.output
        assert "everything" in result.stdout
        assert "0.0001" in result.stdout

    def test_val_is_what_is_reported(self, keras_transfer, tmp_path):
        for part, count in (("train", 6), ("val", 3)):
            for shade, name in ((0, "a"), (180, "b")):
                write_images(tmp_path / "parts" / part / name, shade, count, first=shade)
        flat = tmp_path / "parts" / "val" / "a" / "000.png"
        Image.new("RGB", (9, 9)).save(flat)
        result = keras_transfer(
            *("train", tmp_path / "parts", *SMALL, "--output", tmp_path / "out", "--quiet", "--fast")
        )
        assert result.exit_code == 0, result.output
        metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
        assert metrics["training_images"] == {"a": 6, "b": 6}
        assert metrics["test"]["samples"] == 6
        assert metrics["noted"] == {str(flat): "all of one colour"}


def few(root, per_class=3, names=("a", "b")):
    """Write a few images of each of two classes."""
    for shade, name in zip((0, 180), names, strict=True):
        write_images(root / name, shade, per_class, first=shade)


ANTS, BEES = "\u8682\u8681", "\u871c\u8702"
LEFT_OUT = {
    "not an image": 2,
    "hidden": 1,
    "an image of a type that is not read; convert it to JPEG or PNG": 1,
}


@pytest.fixture(scope="module")
def of_all_kinds(keras_transfer, tmp_path_factory):
    """Train on a folder of parts, names and files of all kinds; return the result and its folder."""
    root = tmp_path_factory.mktemp("kinds")
    photos, ants = root / "photos", root / "photos" / "Training" / ANTS
    few(photos / "Training", 4, names=(ANTS, BEES))
    few(photos / "test", 2, names=(BEES, ANTS))  # all are wrong, and shown by their names
    (photos / "more").mkdir()
    for name in ("labels.txt", os.fsdecode(b"fourm\xed"), ".DS_Store", "1.svg"):
        (ants / name).write_bytes(b"x")
    os.rename(photos / "test" / ANTS / "180.png", photos / "test" / ANTS / os.fsdecode(b"fourm\xed.png"))
    result = keras_transfer("train", photos, *SMALL, "--output", root / "out", "--fast")
    assert result.exit_code == 0, result.output
    return result, root / "out"


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes there")
class TestFolderOfAllKinds:
    def test_of_train_and_test_the_second_is_reported_on(self, of_all_kinds):
        result, folder = of_all_kinds
        assert "Trains on Training, reports on test; not used: more" in result.stdout
        metrics = json.loads((folder / "metrics.json").read_text())
        assert metrics["training_images"] == {BEES: 4, ANTS: 4}
        assert (metrics["test"]["samples"], metrics["test"]["accuracy"]) == (4, 0.0)

    def test_what_is_left_out_is_counted_everywhere(self, of_all_kinds):
        result, folder = of_all_kinds
        assert "Left out: 4 (2 not an image; 1 hidden; 1 an image of a type" in result.stdout
        assert "1.svg" in result.stdout
        metrics = json.loads((folder / "metrics.json").read_text())
        assert metrics["skipped_by_reason"] == LEFT_OUT
        assert sorted(metrics["skipped"].values()) == sorted(2 * ["not an image"] + list(LEFT_OUT)[1:])
        page = (folder / "report.html").read_text(encoding="utf-8")
        assert "Left out: 4 files" in page
        assert '<td class="long">not an image</td><td class="n">2</td>' in page

    def test_names_that_are_no_text_are_shown_in_the_report(self, of_all_kinds):
        _, folder = of_all_kinds
        page = (folder / "report.html").read_text(encoding="utf-8")
        assert r"fourm\udced</td>" in page  # left out
        assert r"fourm\udced.png" in page  # wrong
        assert ANTS in page


class TestFolders:
    def test_from_within_the_images_twice(self, keras_transfer, tmp_path, monkeypatch):
        few(tmp_path / "photos")
        monkeypatch.chdir(tmp_path / "photos")
        result = keras_transfer("train", ".", *SMALL, "--quiet", "--fast")
        assert result.exit_code == 0, result.output
        assert "on 2 images (95% interval: " in " ".join(
            result.stdout.split()
        )  # three of a class will do
        assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "photos-model"]
        again = keras_transfer("train", ".", *SMALL, "--quiet", "--fast")
        assert again.exit_code == 1
        assert "--overwrite" in again.stderr
        # As versions before have left it.
        (tmp_path / "photos-model").rename(tmp_path / "photos" / "photos-model")
        result = keras_transfer("train", ".", *SMALL, "--quiet", "--dry-run")
        assert result.exit_code == 0, result.output
        assert "Left out: 1 (1 written by keras_transfer)" in result.stdout
        assert "(4 images, 2 a class)" in " ".join(result.stdout.split())

    @pytest.mark.parametrize("option", ["output", "cache"])
    @pytest.mark.parametrize("command", ["train", "compare"])
    def test_nothing_is_written_among_the_images(self, command, option, keras_transfer, tmp_path):
        few(tmp_path / "photos")
        options = (f"--{option}", tmp_path / "photos" / "run")
        if command == "compare":
            options += ("--backbones", "mobilenet,mobilenet_v2")
        result = keras_transfer(command, tmp_path / "photos", *options)
        assert result.exit_code == 1
        assert f"{option} must be outside of the images" in result.stderr
        assert f"say --{option} " in result.stderr
        assert sorted(path.name for path in (tmp_path / "photos").iterdir()) == ["a", "b"]

    def test_messages_advise_what_the_command_line_has(self, keras_transfer, tmp_path):
        few(tmp_path / "photos")
        (tmp_path / "photos" / "a" / "out.png").symlink_to(tmp_path / "elsewhere.png")
        Image.new("RGB", (36, 40)).save(tmp_path / "elsewhere.png")
        arguments = ("train", tmp_path / "photos", *SMALL, "--dry-run", "--quiet")
        result = keras_transfer(*arguments)
        assert result.exit_code == 1
        assert (
            "or leave them out with --skip-broken, or follow links with --follow-links" in result.stderr
        )
        assert "on_error" not in result.stderr
        for option, images in (("--follow-links", 5), ("--skip-broken", 4)):
            result = keras_transfer(*arguments, option)
            assert result.exit_code == 0, result.output
            assert f"({images} images" in " ".join(result.stdout.split())

    def test_large_and_deep_images(self, keras_transfer, tmp_path):
        few(tmp_path / "photos")
        Image.new("I;16", (40, 40), 4000).save(tmp_path / "photos" / "a" / "deep.png")
        arguments = ("train", tmp_path / "photos", *SMALL, "--dry-run", "--quiet", "--max-pixels", 1599)
        told = keras_transfer(*arguments).stderr
        assert "or allow them with --max-pixels)" in told
        assert "with max_pixels" not in told

    def test_parts_are_named_by_their_paths(self, keras_transfer, run_folder, tmp_path):
        for part in ("train", "val"):
            few(tmp_path / part)
        result = keras_transfer("evaluate", run_folder / "model.keras", tmp_path)
        assert result.exit_code == 1
        assert f"take one of these, as '{tmp_path / 'val'}'. Received" in result.stderr

    @pytest.mark.skipif(sys.platform != "linux", reason="names are bytes there")
    def test_a_class_whose_name_is_no_text(self, keras_transfer, tmp_path):
        few(tmp_path / "photos")
        os.rename(tmp_path / "photos" / "b", os.fsencode(tmp_path / "photos") + b"/fourm\xed")
        result = keras_transfer(
            *("train", tmp_path / "photos", *SMALL, "--output", tmp_path / "out", "--fast")
        )
        assert result.exit_code == 1
        assert "names in UTF-8" in result.stderr
        assert r"'fourm\udced'" in result.stderr
        assert not (tmp_path / "out").exists()

    def test_two_images_of_a_class_are_too_few(self, keras_transfer, tmp_path):
        few(tmp_path / "photos")
        (tmp_path / "photos" / "b" / "180.png").unlink()
        result = keras_transfer("train", tmp_path / "photos", *SMALL)
        assert result.exit_code == 1
        told = " ".join(result.stderr.split())
        assert "each class must have at least 3 samples, of which one is held back to report on" in told
        assert "add some, or divide the images into the folders train and val yourself" in told
        assert "with 2 of class 'b'" in told

    def test_the_gain_of_a_depth_that_is_right_on_the_same_images(self, capsys):
        from keras_transfer.cli.training import _show
        from keras_transfer.results.automatic import DepthScore

        scores = (
            DepthScore("linear head", 0.9, 0.0, 0.0, 20),
            DepthScore("last group", 0.8, 0.0, 0.0, 7),
            DepthScore("everything", 0.9, 0.1, 0.1, 7),
        )
        trained = SimpleNamespace(
            scores=scores, chosen="linear head", seconds=60.0, left_out=(), views=1
        )
        _show(trained, "")
        first, second, third = (
            line for line in capsys.readouterr().out.splitlines() if " of " in line and "%" in line
        )
        assert "- " in first
        assert "0 (same images)" in second
        assert "+10.0% +- 10.0%" in third


def told(result):
    """Return what a command says of an error, in one line."""
    return " ".join(result.stderr.split())


@pytest.fixture
def one_epoch(monkeypatch):
    """Let deeper training be tried in one fold, for one epoch."""
    from keras_transfer.runs import automatic
    from keras_transfer.runs.stage import Stage

    trains = Stage.train
    monkeypatch.setattr(automatic, "_ENOUGH", 1)
    monkeypatch.setattr(Stage, "train", lambda self, samples, _, name: trains(self, samples, 1, name))


class TestStopped:
    def test_goes_on_with_the_same_command(
        self, keras_transfer, photos, tmp_path, monkeypatch, one_epoch
    ):
        from keras_transfer.cli import training
        from keras_transfer.runs.stage import Stage

        run = ("train", photos, *SMALL, "--output", tmp_path / "out", "--quiet")
        trains, asked = Stage.train, []

        def stop(self, *arguments):
            raise KeyboardInterrupt

        monkeypatch.setattr(Stage, "train", stop)
        result = keras_transfer(*run)
        assert result.exit_code == 130
        assert "the same command with --resume goes on" in told(result)
        result = keras_transfer(*run)
        assert result.exit_code == 1
        assert "say --resume to go on with it, or --overwrite" in told(result)
        monkeypatch.setattr(Stage, "train", lambda *given: asked.append(given) or trains(*given))
        result = keras_transfer(*run, "--resume")
        assert result.exit_code == 0, result.output
        assert asked
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(training.FILES)
        result = keras_transfer(*run, "--resume")
        assert result.exit_code == 0, result.output
        assert "The run is over" in result.stdout
        monkeypatch.setattr("sys.argv", [*sys.argv, "--seed", "1"])
        result = keras_transfer(*run, "--resume")
        assert result.exit_code == 1
        assert "is over, and was begun with other options; say --overwrite" in told(result)
        (tmp_path / "out" / "metrics.json").write_text("{}")
        result = keras_transfer(*run, "--resume")
        assert result.exit_code == 1
        assert "must tell how its run was begun" in told(result)

    def test_resume_replaces_no_files_where_no_run_was_stopped(self, keras_transfer, photos, tmp_path):
        (tmp_path / "model.keras").write_text("mine")
        run = ("train", photos, *SMALL, "--output", tmp_path, "--fast", "--quiet", "--resume")
        result = keras_transfer(*run)
        assert result.exit_code == 1
        assert "has model.keras already" in told(result)
        assert (tmp_path / "model.keras").read_text() == "mine"

    def test_with_other_options_it_says_so(self, keras_transfer, photos, tmp_path, monkeypatch):
        from keras_transfer.cli import training

        run = ("train", photos, *SMALL, "--output", tmp_path / "out", "--quiet", "--fast")
        monkeypatch.setattr(training, "write", lambda *arguments: (_ for _ in ()).throw(OSError("full")))
        assert keras_transfer(*run).exit_code == 1
        result = keras_transfer(*run, "--resume", "--seed", "1")
        assert result.exit_code == 1
        assert "begin anew with --overwrite. Received: for" in told(result)


class TestNetworks:
    def test_two_side_by_side(self, keras_transfer, photos, tmp_path):
        result = keras_transfer(
            *("train", photos, *SMALL, "--backbone", "mobilenet, mobilenet_v2"),
            *("--output", tmp_path / "out", "--quiet", "--fast"),
        )
        assert result.exit_code == 0, result.output
        metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
        assert metrics["backbone"] == "mobilenet, mobilenet_v2"
        model = kt.load_model(tmp_path / "out" / "model.keras")
        begin = {layer.name.split("_")[0] for layer in model.layers}
        assert "mobilenet" in begin

    def test_the_best_of_those_at_hand(self, photos, tmp_path, monkeypatch):
        from keras_transfer.cli import backbones

        ranked = []

        def rank(names, data, **options):
            ranked.append((names, options))
            sized = [("mobilenet", 32), ("mobilenet_v2", (48, 48))]
            asked = {key: options[key] for key in ("method", "seed", "cache")}
            return kt.rank_backbones(sized, data, weights=None, verbose=0, **asked)

        true = kt.rank_backbones
        monkeypatch.setattr(
            kt, "rank_backbones", lambda *a, **k: true(*a, **k) if "weights" in k else rank(*a, **k)
        )
        data = kt.data.from_directory(photos, image_size=32)
        given = {"minutes": 3.0, "seed": 0, "cache": None, "verbose": 0}
        best = backbones.chosen(data, 2, tmp_path / "run", False, **given)
        assert sorted(best) == [("mobilenet", (32, 32)), ("mobilenet_v2", (48, 48))]
        assert backbones.largest(best) == (48, 48)
        ((names, options),) = ranked
        assert (names, options["method"], options["minutes"]) == ("cached", "ridge", 1.0)
        assert (tmp_path / "run" / "features").is_dir()
        with pytest.raises(ValueError, match=r"ensemble must be at most 2.* Received: ensemble=3"):
            backbones.chosen(data, 3, None, False, **given)
        ranked.pop()
        again = backbones.chosen(data, 2, tmp_path / "run", True, **given)
        assert again == best
        assert len(ranked) == 1
        (tmp_path / "run" / "backbones.json").write_text("[1]")
        with pytest.raises(ValueError, match=r"backbones.json is damaged"):
            backbones.chosen(data, 2, tmp_path / "run", True, **given)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--ensemble", "2"), "ensemble must be given with --backbone auto"),
            (("--backbone", "auto"), "image-size and weights must not be given with --backbone auto"),
            (("--backbone", "mobilenet,mobilnet_v2"), "did you mean MobileNetV2"),
        ],
    )
    def test_options_that_do_not_fit(self, keras_transfer, photos, tmp_path, options, message):
        result = keras_transfer("train", photos, *SMALL, "--output", tmp_path / "out", *options)
        assert result.exit_code == 1
        assert message in told(result)
        assert not (tmp_path / "out").exists()


class TestMirrored:
    def test_is_tried_and_shown(self, keras_transfer, photos, tmp_path, monkeypatch):
        from keras_transfer.runs import linear

        monkeypatch.setattr(linear, "is_better", lambda score: True)
        run = ("train", photos, *SMALL, "--fast", "--mirrored")
        result = keras_transfer(*run, "--output", tmp_path / "out", "--quiet")
        assert result.exit_code == 0, result.output
        assert "mirrored" in result.stdout
        assert "two passes" in " ".join(result.stdout.replace("│", " ").split())
        assert json.loads((tmp_path / "out" / "metrics.json").read_text())["views"] == 2
        model = kt.load_model(tmp_path / "out" / "model.keras")
        assert model.get_layer("mean_of_views")
        assert kt.calibration.of(model).coverage == 0.9
        result = keras_transfer("predict", tmp_path / "out" / "model.keras", photos / "dark")
        assert result.exit_code == 0, result.output

    @pytest.mark.parametrize(
        ("options", "tried"), [((), True), (("--fast",), False), (("--no-mirrored",), False)]
    )
    def test_by_default_where_there_is_time(self, keras_transfer, photos, monkeypatch, options, tried):
        from keras_transfer.runs import automatic

        asked = []
        monkeypatch.setattr(automatic, "train", lambda *a, **k: asked.append(k["views"]) or 1 / 0)
        with pytest.raises(ZeroDivisionError):
            raise keras_transfer("train", photos, *SMALL, "--quiet", *options).exception
        assert asked == [tried]


class TestLogs:
    def test_a_file_of_epochs_for_each_training(self, keras_transfer, photos, tmp_path, one_epoch):
        result = keras_transfer(
            *("train", photos, *SMALL, "--output", tmp_path / "out", "--quiet", "--no-mirrored"),
            *("--csv-log", tmp_path / "logs"),
        )
        assert result.exit_code == 0, result.output
        names = {path.name for path in (tmp_path / "logs").iterdir()}
        assert {"last-group-fold-0.csv", "everything-fold-0.csv"} <= names
        lines = (tmp_path / "logs" / "everything-fold-0.csv").read_text().splitlines()
        assert len(lines) == 2
        assert {"epoch", "loss"} <= set(lines[0].split(","))

    @pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="Keras writes them with it")
    def test_for_tensorboard(self, keras_transfer, photos, tmp_path):
        result = keras_transfer(
            *("train", photos, *SMALL, "--output", tmp_path / "out", "--quiet"),
            *("--recipe", "one_cycle", "--tensorboard", tmp_path / "logs"),
        )
        assert result.exit_code == 0, result.output
        assert list((tmp_path / "logs" / "one_cycle").rglob("events.out.tfevents.*"))

    def test_tensorboard_without_tensorflow(self, keras_transfer, photos, tmp_path, monkeypatch):
        from keras_transfer.cli import logs

        monkeypatch.setattr(logs.importlib.util, "find_spec", lambda name: None)
        result = keras_transfer(
            *("train", photos, *SMALL, "--output", tmp_path / "out", "--tensorboard", tmp_path / "logs")
        )
        assert result.exit_code == 1
        assert "pip install 'keras-transfer[tensorflow]'" in result.stderr
        assert not (tmp_path / "out").exists()

    def test_are_not_among_the_images(self, keras_transfer, photos):
        result = keras_transfer("train", photos, *SMALL, "--csv-log", photos / "logs")
        assert result.exit_code == 1
        assert "csv-log must be outside of the images" in told(result)


class TestEarlyStopping:
    def test_ends_a_phase_whose_loss_stays(self, keras_transfer, photos, tmp_path, monkeypatch):
        from keras_transfer.runs import automatic

        asked, follow = [], automatic.follow
        monkeypatch.setattr(automatic, "follow", lambda *a, **k: asked.extend(a[2]) or follow(*a, **k))
        run = ("train", photos, *SMALL, "--quiet", "--recipe", "one_cycle", "--output")
        result = keras_transfer(*run, tmp_path / "out", "--early-stopping", "1")
        assert result.exit_code == 0, result.output
        assert [[each.patience for each in phase.callbacks] for phase in asked] == [[1], [1]]

    def test_is_for_recipes(self, keras_transfer, photos, tmp_path):
        run = ("train", photos, *SMALL, "--output", tmp_path / "out", "--early-stopping", "2")
        result = keras_transfer(*run)
        assert result.exit_code == 1
        assert "early-stopping must be given with a recipe" in told(result)


class TestCompare:
    def test_shows_what_each_reaches(self, photos, keras_transfer, tmp_path):
        arguments = [each for each in SMALL if each not in ("--backbone", "mobilenet")]
        names = "mobilenet,mobilenet_v2"
        result = keras_transfer(
            *("compare", photos, "--backbones", names, *arguments, "--output", tmp_path, "--quiet"),
            *("--class-weight", "balanced", "--fast"),
        )
        assert result.exit_code == 0, result.output
        for name in names.split(","):
            assert name in result.stdout
            assert (tmp_path / name / "model.keras").exists()
            metrics = json.loads((tmp_path / name / "metrics.json").read_text())
            assert metrics["class_weight"] == "balanced"

    def test_one_backbone_is_no_comparison(self, photos, keras_transfer):
        result = keras_transfer("compare", photos, "--backbones", "mobilenet")
        assert result.exit_code == 1
        assert "at least two names" in result.stderr
        twice = keras_transfer("compare", photos, "--backbones", "mobilenet, mobilenet")
        assert "at least two names" in twice.stderr

    @pytest.mark.parametrize("command", [("train",), ("compare", "--backbones", "vgg16,mobilenet")])
    def test_a_cache_that_a_recipe_would_not_use(self, command, keras_transfer, photos, tmp_path):
        options = ("--recipe", "one_cycle", "--cache", tmp_path / "features")
        result = keras_transfer(command[0], photos, *command[1:], *options)
        assert result.exit_code == 1
        assert "cache must not be given with a recipe" in result.stderr
        assert not any(tmp_path.iterdir())


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
        assert "a folder for each class" in told(result)

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
        assert "1 of 13" in told(result)


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
    assert "['b', 'c']" in told(result)


def test_broken_images_left_out(keras_transfer, tmp_path):
    for shade, name in ((0, "a"), (180, "b\nnew line")):
        write_images(tmp_path / "set" / name, shade, 8)
    (tmp_path / "set" / "a" / "broken\n.jpg").write_text("no image")
    result = keras_transfer(
        *("train", tmp_path / "set", *SMALL, "--output", tmp_path / "out"),
        *("--skip-broken", "--quiet", "--fast"),
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
    assert "broken.jpg" in told(result)


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


@pytest.fixture(scope="module")
def bursts(tmp_path_factory):
    """Bursts of two photos, eight of each class."""
    root = tmp_path_factory.mktemp("bursts")
    for name, shade in (("dark", 0), ("light", 180)):
        write_images(root / name / "wide", shade, 16)
        for number, path in enumerate(sorted((root / name / "wide").iterdir())):
            path.rename(path.with_name(f"{name}{number // 2}_{number % 2}.png"))
    return root


class TestLogitAdjustment:
    def test_is_done(self, photos, keras_transfer, tmp_path):
        run = ("train", photos, *SMALL, "--fast", "--quiet", "--output")
        result = keras_transfer(*run, tmp_path / "out", "--logit-adjustment", "1")
        assert result.exit_code == 0, result.output
        assert json.loads((tmp_path / "out" / "metrics.json").read_text())["logit_adjustment"] == 1.0

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--class-weight", "balanced"), "leave it or class_weight out"),
            (("--recipe", "one_cycle"), "logit-adjustment must be given with recipe='auto'"),
        ],
    )
    def test_that_can_t_be(self, photos, keras_transfer, options, message):
        result = keras_transfer("train", photos, *SMALL, "--logit-adjustment", "1", *options)
        assert result.exit_code == 1
        assert message in " ".join(result.stderr.split())


class TestParts:
    """How images are divided: groups, parts, and classes at a level."""

    def run(self, keras_transfer, *arguments):
        result = keras_transfer(*arguments)
        assert result.exit_code == 0, result.output
        return " ".join(result.output.split())

    def test_groups_and_a_test(self, bursts, keras_transfer, tmp_path):
        told = self.run(
            *(keras_transfer, "train", bursts, *SMALL, "--fast", "--output", tmp_path / "out"),
            *("--group-pattern", r"(.*)_\d\.png", "--split", "0.25", "--test-split", "0.25"),
            *("--level", "2"),
        )
        assert "18 images in 9 groups to train on" in told
        assert "8 images are cut off for a test" in told
        metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
        assert list(metrics["training_images"]) == ["dark/wide", "light/wide"]
        assert (metrics["test"]["samples"], metrics["test_part"]["samples"]) == (6, 8)
        names = [os.path.basename(file) for file in metrics["test_part"]["files"]]
        assert sorted(name[-5] for name in names) == ["0"] * 4 + ["1"] * 4  # whole bursts
        rest = kt.data.from_directory(bursts, image_size=8, group_pattern=r"(.*)_\d\.png", verbose=0)
        rest, cut_off = rest.split(0.25)
        assert [str(cut_off.file(k)) for k in range(8)] == metrics["test_part"]["files"]

    def test_series_are_told_with_the_option(self, bursts, keras_transfer, caplog, monkeypatch):
        monkeypatch.setattr(caplog.handler, "formatter", ByOption())
        self.run(keras_transfer, "train", bursts, *SMALL, "--dry-run", "--quiet")
        assert r"--group-pattern '(.*)_\d+\.' keeps them together" in caplog.text

    def test_what_is_cut_off_is_ranked_by_nothing(self, bursts, keras_transfer, monkeypatch):
        seen = []
        monkeypatch.setattr(kt, "rank_backbones", lambda names, loader, **_: seen.append(loader))
        self.run(
            *(keras_transfer, "rank", bursts, *SMALL[2:], "--backbones", "mobilenet", "--quiet"),
            *("--test-split", "0.25", "--group-pattern", r"(.*)_\d\.png"),
        )
        assert seen[0].num_samples == 24
        assert len({*seen[0].groups}) == 12

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--split", "1.5"), "split must be a number in (0, 1)"),
            (("--test-split", "0"), "test-split must be a number in (0, 1)"),
            (("--level", "3"), "level must be no more than the number of folders"),
            (("--group-pattern", "(.*)"), "at least 3"),
            (("--group-pattern", "x(.)"), "--group-pattern must find something in the names"),
        ],
    )
    def test_that_can_t_be(self, keras_transfer, tmp_path, options, message):
        write_images(tmp_path / "dark", 0, 2)
        write_images(tmp_path / "light", 180, 2)
        result = keras_transfer("train", tmp_path, *SMALL, "--quiet", *options)
        assert result.exit_code == 1
        assert message in " ".join(result.stderr.split())

    def test_of_folders_that_are_divided(self, keras_transfer, tmp_path):
        for part in ("train", "val", "test"):
            for number, name in enumerate(("dark", "light")):
                write_images(tmp_path / part / name, 180 * number, 4)
        for options, message in (
            (("--split", "0.5"), "split must not be given where the images are divided already"),
            (("--test-split", "0.5"), "test-split must not be given where there is a part"),
            (("--group-pattern", r"(\d+)"), "train and val must not share a group"),
        ):
            result = keras_transfer("train", tmp_path, *SMALL, "--quiet", *options)
            assert result.exit_code == 1
            assert message in " ".join(result.stderr.split())
