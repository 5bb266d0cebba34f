"""What is made of an image is the same in training, predicting, evaluating and reading."""

import io
import json
import os

import keras
import numpy as np
import pytest
from folders import SMALL, Image

import keras_transfer as kt
from keras_transfer.data.carried_rules import rules_of
from keras_transfer.data.images.reading import read_image
from keras_transfer.data.images.rules import checked_rules
from keras_transfer.data.sources import FileSource

SIZE, GROUND, RANGE = 32, (10, 20, 30), (0, 4095)
RULES = checked_rules(GROUND, RANGE)
OPTIONS = ("--background", "#0a141e", "--value-range", "0", "4095")


def half(mode, left, right):
    """Return an image whose left half is of one colour and whose right half of another."""
    image = Image.new(mode, (SIZE, SIZE), right)
    image.paste(left, (0, 0, SIZE // 2, SIZE))
    return image


def palette():
    image = half("P", 0, 1)
    image.putpalette([0, 0, 0, 200, 100, 50])
    return image


# Images, how they are saved, and the colours of both halves.
KINDS = {
    "RGBA.png": (half("RGBA", (0, 0, 0, 0), (200, 100, 50, 255)), {}, GROUND, (200, 100, 50)),
    "LA.png": (half("LA", (0, 0), (200, 255)), {}, GROUND, (200, 200, 200)),
    "palette.png": (palette(), {"transparency": 0}, GROUND, (200, 100, 50)),
    "tRNS.png": (half("RGB", 0, (200, 100, 50)), {"transparency": (0, 0, 0)}, GROUND, (200, 100, 50)),
    "RGBA.webp": (half("RGBA", 0, (200, 100, 50, 255)), {"lossless": True}, GROUND, (200, 100, 50)),
    "RGBA.tif": (half("RGBA", 0, (200, 100, 50, 255)), {}, GROUND, (200, 100, 50)),
    "sixteen.png": (half("I;16", 0, 2048), {}, (0, 0, 0), (128, 128, 128)),
    "CMYK.jpg": (half("CMYK", (0, 255, 255, 0), 0), {"quality": 100}, (254, 0, 0), (255, 255, 255)),
    "grey.jpg": (half("L", 0, 200), {"quality": 100}, (0, 0, 0), (200, 200, 200)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of each kind, in each of two classes, and one that ends too soon."""
    root = tmp_path_factory.mktemp("kinds")
    for name in ("ant", "bee"):
        (root / name).mkdir()
        for kind, (image, options, _, _) in KINDS.items():
            image.save(root / name / kind, **options)
    noise = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), "uint8")
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG")
    content = file.getvalue()
    (root / "bee" / "broken.jpg").write_bytes(content[: len(content) // 2] + b"\xff\xd9")
    for path in root.rglob("*.*"):  # those that were written just now are decoded each time
        os.utime(path, (10**9, 10**9))
    return root


@pytest.fixture(scope="module")
def seen():
    """Record each image that is read without augmentation, by the name of its file."""
    found = {}
    read = FileSource.sample

    def recording(source, index, size, crop=None):
        image, label = read(source, index, size, crop)
        if crop is None and size == (SIZE, SIZE):
            found[source.paths[index].name] = image
        return image, label

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileSource, "sample", recording)
        yield found


@pytest.fixture(scope="module")
def made(folder, seen, keras_transfer, tmp_path_factory):
    """Return what each way makes of the images, and the folder that `train` has written."""
    output = tmp_path_factory.mktemp("one") / "model"
    ways = {
        "read_image": {
            kind: read_image(folder / "ant" / kind, (SIZE, SIZE), rules=RULES) for kind in KINDS
        }
    }

    def recorded(name, run):
        seen.clear()
        run()
        ways[name] = dict(seen)

    def ran(*arguments, code=0):
        result = keras_transfer(*arguments)
        assert result.exit_code == code, result.output
        if code:
            assert "broken.jpg" in result.stderr
        else:
            assert "broken.jpg" in json.dumps(
                json.loads((output / "metrics.json").read_text())["skipped"]
            )

    small = [option if option != "32" else str(SIZE) for option in SMALL]
    recorded(
        "from_directory",
        lambda: list(
            kt.data.from_directory(
                folder, image_size=SIZE, background=GROUND, value_range=RANGE, on_error="skip", verbose=0
            )
        ),
    )
    recorded(
        "train",
        lambda: ran(
            *(
                "train",
                folder,
                *small,
                *OPTIONS,
                "--skip-broken",
                "--fast",
                "--output",
                output,
                "--quiet",
            )
        ),
    )
    model = output / "model.keras"
    recorded("evaluate", lambda: ran("evaluate", model, folder, "--skip-broken", "--quiet"))
    recorded("predict", lambda: ran("predict", model, folder, code=1))
    return ways, output


@pytest.mark.parametrize("way", ["read_image", "from_directory", "train", "predict", "evaluate"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_made_of_an_image(kind, way, made):
    image = made[0][way][kind]
    _, _, left, right = KINDS[kind]
    for colour, column in ((left, 0), (right, SIZE - 1)):
        np.testing.assert_allclose(image[:, column].astype(int), [colour] * SIZE, atol=1)
    np.testing.assert_array_equal(image, made[0]["read_image"][kind])


def test_a_model_keeps_how_it_was_trained(made, folder, caplog):
    path = made[1] / "model.keras"
    assert rules_of(path) == rules_of(kt.load_model(path)) == RULES
    model = kt.load_model(path)
    loader = kt.data.from_directory(
        folder, image_size=SIZE, value_range=RANGE, on_error="skip", verbose=0
    )
    caplog.clear()
    kt.evaluation.evaluate(model, loader, verbose=0)
    kt.evaluation.evaluate(model, loader.subset([0, 1]), verbose=0)
    (record,) = caplog.records
    assert record.getMessage().startswith("data is read with {'background': [255, 255, 255]}, but model")
    assert "{'background': [10, 20, 30]}; tell kt.data.from_directory the same" in record.getMessage()


def test_images_of_one_colour_are_named_by_predict(made, keras_transfer, tmp_path):
    Image.new("RGB", (40, 40), (5, 6, 7)).save(tmp_path / "plain.png")
    result = keras_transfer("predict", made[1] / "model.keras", tmp_path / "plain.png")
    assert result.exit_code == 0
    assert "plain.png (all of one colour)" in "".join(result.stderr.splitlines())


def test_a_range_and_a_background_for_a_model_that_knows_none(made, keras_transfer, folder, tmp_path):
    model = kt.load_model(made[1] / "model.keras")
    kt.calibration.forget_calibration(model)
    keras.Model(model.inputs, model.outputs[0]).save(tmp_path / "plain.keras")
    files = sorted((folder / "ant").iterdir())
    probabilities = []
    for path, options in ((made[1] / "model.keras", ()), (tmp_path / "plain.keras", OPTIONS)):
        result = keras_transfer("predict", path, *files, "--format", "json", *options)
        assert result.exit_code == 0, result.output
        found = [[*row["probabilities"].values()] for row in json.loads(result.stdout)]
        probabilities.append(found)
    np.testing.assert_allclose(*probabilities, atol=1e-6)
    evaluated = keras_transfer("evaluate", path, folder, "--json", "--skip-broken", *OPTIONS)
    assert evaluated.exit_code == 0, evaluated.output
    result = keras_transfer("predict", path, folder / "ant" / "sixteen.png")
    assert "; --value-range 0 4095 keeps 8)" in " ".join(result.stderr.split())


def test_max_pixels(made, keras_transfer, tmp_path):
    Image.fromarray(np.eye(40, dtype="uint8") * 255).save(tmp_path / "1.png")
    model = made[1] / "model.keras"
    for limit, code in ((1600, 0), (1599, 1)):
        result = keras_transfer("predict", model, tmp_path / "1.png", "--max-pixels", limit)
        assert result.exit_code == code
    assert "1,600 pixels, and more than 1,599" in " ".join(result.stderr.split())
