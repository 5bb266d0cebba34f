"""`predict`, `evaluate` and `export`, on the model that `train` has written."""

import csv
import io
import json

import keras
import pytest
from folders import Image


@pytest.fixture
def mixed(tmp_path):
    """A dark image, a light one with a strange name, and a file that is none."""
    for name, shade in (("dark.png", 30), ("light\n[bold].png", 210)):
        Image.new("RGB", (50, 40), (shade,) * 3).save(tmp_path / name)
    (tmp_path / "text.jpg").write_text("hello")
    return tmp_path


class TestPredict:
    def test_a_table(self, keras_transfer, run_folder, mixed):
        result = keras_transfer("predict", run_folder / "model.keras", mixed / "dark.png")
        assert result.exit_code == 0, result.output
        assert "dark" in result.stdout
        assert "%" in result.stdout

    def test_json_has_all_probabilities(self, keras_transfer, run_folder, mixed):
        files = sorted(mixed.glob("*.png"))
        result = keras_transfer("predict", run_folder / "model.keras", *files, "--format", "json")
        assert result.exit_code == 0, result.output
        rows = json.loads(result.stdout)
        assert [row["class"] for row in rows] == ["dark", "light, very"]
        assert [row["file"] for row in rows] == [str(file) for file in files]
        for row in rows:
            assert sum(row["probabilities"].values()) == pytest.approx(1.0, abs=1e-4)
            assert row["probability"] == max(row["probabilities"].values())

    def test_csv_of_a_folder_with_a_file_that_is_no_image(self, keras_transfer, run_folder, mixed):
        result = keras_transfer("predict", run_folder / "model.keras", mixed, "--format", "csv")
        assert result.exit_code == 1
        assert "text.jpg" in result.stderr
        rows = list(csv.DictReader(io.StringIO(result.stdout)))
        assert [row["class"] for row in rows] == ["dark", "light, very"]
        assert rows[1]["file"] == str(mixed / "light\n[bold].png")

    def test_names_do_nothing_to_the_terminal(self, keras_transfer, run_folder, mixed):
        result = keras_transfer("predict", run_folder / "model.keras", mixed)
        assert "light\\n[bold]" in "".join(result.stdout.split())

    def test_unsure_where_several_classes_are_probable(self, keras_transfer, run_folder, tmp_path):
        import keras_transfer as kt

        model = kt.load_model(run_folder / "model.keras")
        found = kt.calibration.Calibration(1.0, 0.0, 0.9, 5)  # too few samples: every class may be it
        kt.calibration.attach_calibration(model, found)
        model.save(tmp_path / "unsure.keras")
        Image.new("RGB", (32, 32)).save(tmp_path / "1.png")
        arguments = ("predict", tmp_path / "unsure.keras", tmp_path / "1.png", "--format", "json")
        (row,) = json.loads(keras_transfer(*arguments).stdout)
        assert row["unsure"]
        assert sorted(row["candidates"]) == ["dark", "light, very"]

    def test_no_such_image(self, keras_transfer, run_folder, tmp_path):
        result = keras_transfer("predict", run_folder / "model.keras", tmp_path / "none.png")
        assert result.exit_code == 1
        assert "none.png" in result.stderr


class TestEvaluate:
    def test_a_report(self, keras_transfer, run_folder, photos):
        result = keras_transfer("evaluate", run_folder / "model.keras", photos, "--quiet")
        assert result.exit_code == 0, result.output
        for part in ("Accuracy 100.0%", "40 images", "light, very", "promised: 90%"):
            assert part in " ".join(result.stdout.split())

    def test_json(self, keras_transfer, run_folder, photos):
        result = keras_transfer("evaluate", run_folder / "model.keras", photos, "--json")
        assert json.loads(result.stdout)["confusion"] == [[20, 0], [0, 20]]

    def test_other_classes(self, keras_transfer, run_folder, photos, tmp_path):
        (tmp_path / "set").mkdir()
        for name in ("dark", "other"):
            (tmp_path / "set" / name).symlink_to(photos / "dark")
        result = keras_transfer("evaluate", run_folder / "model.keras", tmp_path / "set")
        assert result.exit_code == 1
        assert "Error:" in result.stderr


class TestModelsThatAreNotOurs:
    def test_no_file(self, keras_transfer, tmp_path):
        result = keras_transfer("predict", tmp_path / "model.keras", tmp_path)
        assert result.exit_code == 1
        assert "must be a .keras file" in result.stderr

    def test_a_text(self, keras_transfer, tmp_path):
        (tmp_path / "model.keras").write_text("hello")
        result = keras_transfer("predict", tmp_path / "model.keras", tmp_path)
        assert result.exit_code == 1
        assert "Traceback" not in result.output

    def test_a_model_of_something_else(self, keras_transfer, tmp_path):
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        model.save(tmp_path / "model.keras")
        result = keras_transfer("predict", tmp_path / "model.keras", tmp_path)
        assert result.exit_code == 1
        assert "must take RGB images" in result.stderr

    def test_code_in_a_model_is_not_run(self, keras_transfer, tmp_path):
        layer = keras.layers.Lambda(lambda x: x + 1)
        image = keras.Input((32, 32, 3))
        flat = keras.layers.GlobalAveragePooling2D()(layer(image))
        keras.Model(image, keras.layers.Dense(2)(flat)).save(tmp_path / "model.keras")
        result = keras_transfer("predict", tmp_path / "model.keras", tmp_path)
        assert result.exit_code == 1
        assert "Lambda" in result.stderr or "lambda" in result.stderr

    def test_a_stock_classifier_has_numbers_for_names(self, keras_transfer, tmp_path):
        image = keras.Input((32, 32, 3))
        flat = keras.layers.GlobalAveragePooling2D()(image)
        outputs = keras.layers.Dense(2, activation="softmax")(flat)
        keras.Model(image, outputs).save(tmp_path / "model.keras")
        Image.new("RGB", (32, 32)).save(tmp_path / "1.png")
        arguments = ("predict", tmp_path / "model.keras", tmp_path / "1.png", "--format", "json")
        (row,) = json.loads(keras_transfer(*arguments).stdout)
        assert row["class"] in ("0", "1")
        assert row["unsure"] is False


class TestExport:
    def test_leaves_what_is_there(self, keras_transfer, run_folder, tmp_path):
        target = tmp_path / "model.onnx"
        target.write_text("mine")
        result = keras_transfer(
            "export", run_folder / "model.keras", "--format", "onnx", "--output", target
        )
        assert result.exit_code == 1
        assert target.read_text() == "mine"

    def test_unknown_format(self, keras_transfer, run_folder):
        result = keras_transfer("export", run_folder / "model.keras", "--format", "onyx")
        assert result.exit_code == 2
        assert "onnx" in result.stderr

    def test_from_another_backend(self, keras_transfer, run_folder):
        format = "litert" if keras.backend.backend() == "torch" else "torch"
        result = keras_transfer("export", run_folder / "model.keras", "--format", format)
        assert result.exit_code == 1
        assert "KERAS_BACKEND=" in result.stderr
