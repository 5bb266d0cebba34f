"""`predict`, `evaluate` and `export`, on the model that `train` has written."""

import csv
import io
import json
import os
import re
import shutil
import sys
import zipfile

import keras
import pytest
from folders import Image, write_images


def make_other_model(path, run_folder):
    """Write a file or folder that is no `.keras` file."""
    small = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    if path.name == "old.h5":
        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "w") as file:
            file.attrs["model_config"] = json.dumps({"class_name": "Sequential"})
    elif path.name == "1.weights.h5":
        small.save_weights(path)
    elif path.name == "photos":
        path.mkdir()
    elif path.name == "saved":
        path.mkdir()
        (path / "saved_model.pb").touch()
    elif path.name == "run":
        path.mkdir()
        shutil.copy(run_folder / "model.keras", path)
    elif path.suffix in (".pt", ".zip"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl" if path.suffix == ".pt" else "a.txt", b"x")
    else:
        start = {".pkl": b"\x80\x04", ".tflite": b"    TFL3", ".onnx": b"\x08\x08"}
        path.write_bytes(start[path.suffix] + bytes(20))


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

    @pytest.mark.parametrize("command", ["predict", "evaluate"])
    def test_each_image_is_decoded_once(self, command, keras_transfer, run_folder, photos, monkeypatch):
        """To look at it; then it is in memory."""
        from keras_transfer.data.images import reading

        files, loaded, load = list(photos.rglob("*.png")), [], reading._load
        for path in files:
            os.utime(path, (10**9, 10**9))
        monkeypatch.setattr(reading, "_load", lambda image: (loaded.append(image.filename), load(image)))
        result = keras_transfer(command, run_folder / "model.keras", photos)
        assert result.exit_code == 0, result.output
        assert sorted(loaded) == sorted(map(str, files))

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

    def test_a_folder_has_the_images_that_training_takes(self, keras_transfer, run_folder, tmp_path):
        from keras_transfer.data import from_directory

        root = tmp_path / "set"
        write_images(root / "dark", 0, 1)
        write_images(root / "dark" / "2023", 0, 2)
        write_images(root / "light, very" / "a" / "b", 180, 1)
        write_images(root / "dark" / ".cache", 0, 1)
        write_images(root / "__MACOSX", 0, 1)
        (root / "dark" / "000.png").rename(root / "dark" / "photo")
        for name in ("labels.txt", "Thumbs.db", "2.dng"):
            (root / "dark" / name).write_bytes(b"P1 hello")
        loader = from_directory(root, image_size=32)
        result = keras_transfer("predict", run_folder / "model.keras", root, "--format", "json")
        assert result.exit_code == 0, result.output
        files = [row["file"] for row in json.loads(result.stdout)]
        assert files == [str(loader.file(k)) for k in range(4)]
        assert "Left out: 5 (" in result.stderr
        assert "2 not an image" in result.stderr
        assert "2.dng (an image of a type that is not read" in result.stderr
        assert "labels.txt" not in result.stderr  # which nobody misses

    def test_an_empty_folder_is_an_error(self, keras_transfer, run_folder, mixed):
        (mixed / "empty").mkdir()
        (mixed / "empty" / "notes.txt").write_text("hello")
        result = keras_transfer(
            "predict", run_folder / "model.keras", mixed / "empty", mixed / "dark.png", "--format", "csv"
        )
        assert result.exit_code == 1
        assert "empty (a folder without images; left out: 1 not an image)" in result.stderr
        assert len(list(csv.DictReader(io.StringIO(result.stdout)))) == 1

    def test_links_out_of_a_folder(self, keras_transfer, run_folder, mixed, photos):
        (mixed / "more").symlink_to(photos / "dark")
        model = run_folder / "model.keras"
        result = keras_transfer("predict", model, mixed, "--format", "json")
        assert result.exit_code == 1
        assert "more (a link to" in result.stderr
        (mixed / "text.jpg").unlink()
        result = keras_transfer("predict", model, mixed, "--format", "json", "--follow-links")
        assert result.exit_code == 0
        assert len(json.loads(result.stdout)) == 22

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

    @pytest.mark.parametrize(
        ("name", "told"),
        [
            ("old.h5", "a model in Keras' former HDF5 format; .*load_model.path, compile=False.*save"),
            ("1.weights.h5", "a file of weights without a model; .*model.load_weights.path."),
            ("saved", "a TensorFlow SavedModel, which is for use without Keras; take the .keras file"),
            ("run", "a folder; did you mean '.*model.keras'"),
            ("photos", "a folder without a model; take the .keras file"),
            ("torch.pt", "a PyTorch file, a pickle, which may run any code and is never opened"),
            ("other.zip", "a zip archive of another kind; take the .keras file"),
            ("model.pkl", "a pickle, which may run any code and is never opened; take the"),
            ("model.tflite", "a LiteRT .TensorFlow Lite. model; take the .keras file"),
            ("model.onnx", "an ONNX model; take the .keras file"),
        ],
    )
    def test_other_kinds_are_named(self, name, told, keras_transfer, run_folder, tmp_path):
        path = tmp_path / name
        make_other_model(path, run_folder)
        result = keras_transfer("predict", path, tmp_path)
        assert result.exit_code == 1
        assert re.search(f"Error: path must be that of a .keras file, and this is {told}", result.stderr)

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


class TestTerminals:
    """What is printed where an encoding has few characters, or nobody reads on."""

    @pytest.fixture
    def printed(self, monkeypatch):
        """Return a function that runs a command and returns the status and the bytes it printed."""
        from keras_transfer.cli import main

        def run(*arguments, encoding="utf-8"):
            file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
            monkeypatch.setattr(sys, "stdout", file)
            monkeypatch.setattr(sys, "argv", ["keras-transfer", *map(str, arguments)])
            with pytest.raises(SystemExit) as ended:
                main()
            file.flush()
            return ended.value.code, file.buffer.getvalue()

        return run

    @pytest.fixture
    def ants(self, tmp_path):
        """An image whose name cp1252 doesn't have."""
        write_images(tmp_path / "ants", 0, 1)
        return (tmp_path / "ants" / "000.png").rename(tmp_path / "ants" / "\u8682\u8681.png")

    @pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii"])
    def test_csv_and_json_are_utf_8(self, encoding, printed, run_folder, ants):
        model = run_folder / "model.keras"
        code, text = printed("predict", model, ants, "--format", "csv", encoding=encoding)
        assert code == 0
        (row,) = csv.DictReader(io.StringIO(text.decode("utf-8")))
        assert (row["file"], row["class"]) == (str(ants), "dark")
        code, text = printed("predict", model, ants, "--format", "json", encoding=encoding)
        assert (code, json.loads(text)[0]["file"]) == (0, str(ants))

    def test_a_table_replaces_what_can_not_be_printed(self, printed, run_folder, ants):
        code, text = printed("predict", run_folder / "model.keras", ants, encoding="cp1252")
        assert code == 0
        assert "??.png" in "".join(text.decode("cp1252").split())

    @pytest.mark.skipif(sys.platform != "linux", reason="names are bytes there")
    @pytest.mark.parametrize("format", ["csv", "json", "table"])
    def test_a_file_whose_name_is_no_text(self, format, printed, run_folder, ants):
        os.rename(ants, os.path.join(os.fsencode(ants.parent), b"fourm\xed.png"))
        code, text = printed("predict", run_folder / "model.keras", ants.parent, "--format", format)
        assert code == 0
        assert "fourm\\udced.png" in "".join(text.decode("utf-8").split())

    def test_output_into_a_file_has_no_control_characters(self, printed, run_folder, photos):
        model = run_folder / "model.keras"
        for command in (
            ("evaluate", model, photos),
            ("predict", model, photos),
            ("predict", model, photos, "--format", "csv"),
        ):
            code, text = printed(*command)
            assert code == 0
            assert [c for c in text.decode() if not c.isprintable() and c != "\n"] == []

    @pytest.mark.parametrize("format", ["csv", "table", None])
    def test_nobody_reads_on(self, format, run_folder, photos, monkeypatch, capfd):
        from keras_transfer.cli import main
        from keras_transfer.cli.common import out

        reader, writer = os.pipe()
        os.close(reader)
        model = run_folder / "model.keras"
        predict = ["predict", str(model), str(photos), "--format", format]
        command = ["backbones"] if format is None else predict
        with open(writer, "w", encoding="utf-8") as pipe:
            monkeypatch.setattr(sys, "stdout", pipe)
            monkeypatch.setattr(sys, "argv", ["keras-transfer", *command])
            monkeypatch.setattr(out, "quiet", False)  # for good, says rich, if nobody reads
            with pytest.raises(SystemExit) as ended:
                main()
            monkeypatch.undo()
        assert ended.value.code == 1
        assert capfd.readouterr().err == ""
