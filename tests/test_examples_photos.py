"""The examples on photographs run, on a small folder of them and on what they draw themselves."""

import json
import re

import keras
import numpy as np
import pytest
from PIL import Image
from scripts import run, start

import keras_transfer as kt


@pytest.fixture
def photos(tmp_path, rng):
    """A folder of JPEGs: ants are dark and bees yellow, 6 and 4 of each."""
    for split, count in (("train", 6), ("val", 4)):
        for name, colour in (("ants", (50, 30, 20)), ("bees", (230, 190, 40))):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for n in range(count):
                pixels = np.array(colour) + rng.integers(-20, 21, (40, 50 + n, 3))
                Image.fromarray(pixels.astype("uint8")).save(folder / f"{n}.jpg")
    return tmp_path / "photos"


def names_in(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def assert_pictures(folder, *names):
    for name in names:
        with Image.open(folder / f"{name}.png") as picture:
            picture.verify()
            assert picture.format == "PNG"
            assert min(picture.size) > 200


def rows(text, name):
    """The cells of the rows of a table that begin with a name."""
    lines = [line.strip("│ ").split("│") for line in text.splitlines() if line.startswith(f"│ {name}")]
    return [[cell.strip() for cell in line] for line in lines]


def percent(cell):
    assert re.fullmatch(r"\d+\.\d%", cell)
    return float(cell[:-1])


class TestHotdog:
    @pytest.mark.slow
    @pytest.mark.parametrize("own", [False, True], ids=["drawn", "folder"])
    def test_quick(self, photos, tmp_path, own):
        folder = tmp_path / "run"
        named = ("--imagenet-class", "ants=310", "--imagenet-class", "bees=309")
        done = run(
            "hotdog.py", "--quick", "--output", folder, *(("--folder", photos, *named) if own else ())
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "12 images for training, 8 for" in done.stdout or not own
        pictures = {"training_images", "predictions", "accuracy"}
        assert names_in(folder) == {"accuracy.txt", *(f"{name}.png" for name in pictures)}
        assert_pictures(folder, *pictures)
        text = (folder / "accuracy.txt").read_text(encoding="utf-8")
        assert text.strip() in done.stdout
        tuned = rows(text, "fine-tuned, head at 10x")
        assert [float(rate) for _, rate, *_ in tuned] == [5e-5, 1e-4, 5e-4, 1e-3, 5e-3]
        others = [rows(text, name) for name in ("from scratch", "frozen", "fine-tuned from ImageNet")]
        assert [len(found) for found in others] == [1, 1, 1]
        for _, _, mean, _, seed in [*tuned, *(found[0] for found in others)]:
            assert 0 <= percent(mean) <= 100
            assert seed == mean
        difference = re.search(r"Fine-tuned - from scratch: ([+-]\d+\.\d) points", text)
        expected = percent(tuned[0][2]) - percent(others[0][0][2])
        assert float(difference[1]) == pytest.approx(expected, abs=0.2)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--imagenet-class", "wasps=310"], "names no class 'wasps'; there are ants, bees"),
            ([], "the way 'row' needs --imagenet-class NAME=INDEX"),
        ],
    )
    def test_related_classes(self, photos, tmp_path, arguments, message):
        done = run("hotdog.py", "--quick", "--folder", photos, "--output", tmp_path / "run", *arguments)
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "run").exists()

    def test_no_such_class_of_imagenet(self):
        done = run("hotdog.py", "--imagenet-class", "ants=1000")
        assert done.returncode == 2
        assert "'ants=1000' is not NAME=INDEX with an index from 0 to 999" in done.stderr

    def test_no_folder(self, tmp_path):
        done = run("hotdog.py", "--folder", tmp_path / "nowhere", "--output", tmp_path / "run")
        assert done.returncode == 1
        assert "--folder must have folders 'train' and 'val' or 'test'" in done.stderr
        assert "Traceback" not in done.stderr

    def test_no_network(self, tmp_path):
        nowhere = {"http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
        done = start("hotdog.py", "--output", tmp_path / "run", KERAS_HOME=str(tmp_path), **nowhere)
        assert done.returncode == 1
        assert "could not fetch hotdog.zip of the data set hotdog from http://d2l-data" in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "run").exists()


class TestAntsAndBees:
    @pytest.mark.slow
    @pytest.mark.parametrize("own", [False, True], ids=["drawn", "folder"])
    def test_quick(self, photos, tmp_path, own):
        folder = tmp_path / "run"
        done = run(
            "ants_and_bees.py", "--quick", "--output", folder, *(("--folder", photos) if own else ())
        )
        assert done.returncode == 0, done.stdout + done.stderr
        scenarios = ("finetuning", "feature_extractor")
        pictures = ["training_images", *(f"predictions_{scenario}" for scenario in scenarios)]
        files = {
            f"{s}/{name}" for s in scenarios for name in ("model.keras", "history.json", "curves.png")
        }
        assert names_in(folder) == {"accuracy.txt", *(f"{name}.png" for name in pictures), *files}
        assert_pictures(folder, *pictures, *(f"{scenario}/curves" for scenario in scenarios))
        text = (folder / "accuracy.txt").read_text(encoding="utf-8")
        for scenario in scenarios:
            ((_, accuracy, loss, epoch, _),) = rows(text, scenario)
            history = json.loads((folder / scenario / "history.json").read_text(encoding="utf-8"))
            best = history["best"]
            assert percent(accuracy) == pytest.approx(100 * best["metrics"]["val_accuracy"], abs=0.06)
            assert float(loss) == pytest.approx(best["metrics"]["val_loss"], abs=6e-4)
            assert int(epoch) == best["epoch"] + 1
            assert history["phases"][0]["settings"]["schedule"] == "ExponentialDecay"
        trained = [json.loads((folder / s / "history.json").read_text())["phases"] for s in scenarios]
        assert [phases[0]["settings"]["train"] for phases in trained] == ["all", "head"]
        path = folder / "finetuning" / "model.keras"
        assert kt.class_names(path) == ["ants", "bees"]
        model = keras.models.load_model(path)
        assert model.predict(np.zeros((1, 32, 32, 3)), verbose=0).shape == (1, 2)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "--folder must name the folder that https://download.pytorch.org/"),
            (["--folder", "nowhere"], "there is no folder 'nowhere'"),
            (["--quick", "--folder", "."], "must have a folder for each class"),
        ],
    )
    def test_no_photographs(self, tmp_path, arguments, message):
        (tmp_path / "empty").mkdir()
        arguments = [tmp_path / "empty" if each == "." else each for each in arguments]
        done = run("ants_and_bees.py", "--output", tmp_path / "run", *arguments)
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "run").exists()

    def test_no_such_backbone(self, photos, tmp_path):
        done = run(
            *("ants_and_bees.py", "--folder", photos, "--backbone", "mobilnet"),
            *("--output", tmp_path / "run"),
        )
        assert done.returncode == 1
        assert "did you mean" in done.stderr
        assert "Traceback" not in done.stderr


class TestSVMOnFeatures:
    @pytest.mark.slow
    @pytest.mark.parametrize("own", [False, True], ids=["drawn", "folder"])
    def test_quick(self, photos, tmp_path, own):
        folder = tmp_path / "run"
        done = run(
            "svm_on_features.py", "--quick", "--output", folder, *(("--folder", photos) if own else ())
        )
        assert done.returncode == 0, done.stdout + done.stderr
        written = {name for name in names_in(folder) if not name.startswith("features/")}
        assert written == {"accuracy.txt", "accuracy.png", "predictions.png", "model.keras"}
        assert any((folder / "features").rglob("*"))
        assert_pictures(folder, "accuracy", "predictions")
        text = (folder / "accuracy.txt").read_text(encoding="utf-8")
        for layer in ("pool2", "pool1"):
            found = rows(text, layer)
            assert [row[1] for row in found] == ["linear SVM", "logistic regression"]
            # Colours and stripes are told apart by the features of a random network.
            assert all(percent(row[3]) > 90 for row in found)
            assert all(percent(row[2].split(" +- ")[0]) > 70 for row in found)
        assert re.search(r"By cross-validation the best: linear SVM on pool2", text)
        names = ["ants", "bees"] if own else ["lying", "upright", "slanting"]
        assert kt.class_names(folder / "model.keras") == names
        model = keras.models.load_model(folder / "model.keras")
        assert model.predict(np.zeros((1, 32, 32, 3)), verbose=0).shape == (1, len(names))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--folder", "nowhere"], "there is no folder 'nowhere'"),
            (["--quick", "--layers", "pool3"], "did you mean pool2"),
            (["--quick", "--weights", "no.h5", "--layers", "x" * 3], "no layer"),
        ],
    )
    def test_mistakes(self, tmp_path, arguments, message):
        done = run("svm_on_features.py", "--output", tmp_path / "run", *arguments)
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr
