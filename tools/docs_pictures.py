r"""Make the pictures of the documentation, from a real run on photos of flowers.

MobileNetV2 with ImageNet weights, 250 photos for training, of which a fifth chooses the epoch and
calibrates, and 100 others for all that is reported. Needs the environment variables of "Real images and
weights" in CONTRIBUTING.md, and the weights of MobileNetV2 and of MobileNet at a quarter of its width.

    KERAS_BACKEND=torch python tools/docs_pictures.py

It writes PNG files into docs/pictures/, `photos.txt` with the photos that each of them shows, and the
report on the run, of which

    chromium --headless --window-size=900,1400 --screenshot=docs/pictures/report.png \
        docs/pictures/report.html

shows the beginning.
"""

import argparse
import io
import os
import tempfile
from pathlib import Path

import keras
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

import keras_transfer as kt

ROOT = Path(__file__).parents[1]
LARGEST = 140_000  # bytes of a picture
COUNT = 8  # photos in a picture


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG with 256 colours, in the best resolution that isn't too large."""
    for dpi in range(100, 40, -5):
        drawn, packed = io.BytesIO(), io.BytesIO()
        figure.savefig(drawn, dpi=dpi)
        Image.open(drawn).convert("RGB").quantize(256).save(packed, "PNG", optimize=True)
        if packed.tell() <= LARGEST:
            break
    path.write_bytes(packed.getvalue())
    print(f"{path.name}: {packed.tell():,} bytes at {dpi} dpi")


def photos(loader: kt.Loader, rows: np.ndarray) -> str:
    """Return the names of the files of some samples."""
    return ", ".join(Path(loader.file(int(row))).name for row in rows)


def phases(first: str) -> list[kt.Phase]:
    """Return the phases of the run: the head, then all from the layer `first` on."""
    return [
        kt.Phase("head", 6, "head", 1e-3),
        kt.Phase("last block", 10, f"from:{first}", 2e-4),
    ]


def main() -> None:
    """Train, and draw what the plots show of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "pictures")
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(0)

    folder = Path(os.environ["KERAS_TRANSFER_REAL_DATA"], "flowers")
    train, held_back = kt.data.from_directory(folder / "train", image_size=224).split(0.2)
    test = kt.data.from_directory(folder / "val", image_size=224, shuffle=False)
    names = train.class_names
    shown = {}

    first = train.order(epoch=0)[:COUNT]
    for name, augmentation in (("plain", None), ("standard", "standard"), ("strong", "strong")):
        loader = train.replace(augmentation=augmentation, num_classes=len(names))
        save(kt.plots.show_batch(loader, count=COUNT), output / f"batch_{name}.png")
        shown[f"batch_{name}.png"] = photos(train, first)

    model = kt.classifier("mobilenet_v2", len(names), class_names=names, seed=0)
    save(
        kt.plots.learning_rates(model, kt.recipes.one_cycle(model, 4), train.num_batches),
        output / "learning_rates.png",
    )

    with tempfile.TemporaryDirectory() as directory:
        kt.freeze_backbone(model)
        prefix, tail = kt.split_model(model, kt.frozen_prefix(model))
        features = kt.FeatureCache(prefix, directory).build(train)
        tail.compile("adam", "sparse_categorical_crossentropy")
        save(kt.plots.lr_finder(kt.find_lr(tail, features)), output / "lr_finder.png")

    result = kt.fine_tune(model, train, held_back, phases("block_16_expand"))
    save(kt.plots.history(result), output / "history.png")

    found = kt.calibration.calibrate(model, held_back)
    evaluation = kt.evaluation.evaluate(model, test)
    print(found, evaluation, sep="\n")
    save(kt.plots.confusion_matrix(evaluation), output / "confusion_matrix.png")
    labels, after = test.known_labels(), model.predict(test)
    save(kt.plots.reliability(after, labels, bins=8), output / "reliability.png")
    some = np.arange(5, test.num_samples, test.num_samples // COUNT)[:COUNT]
    save(kt.plots.show_predictions(model, test.subset(some)), output / "predictions.png")
    shown["predictions.png"] = photos(test, some)
    save(kt.plots.top_losses(model, test, count=COUNT), output / "top_losses.png")
    true = after[np.arange(len(labels)), labels]
    shown["top_losses.png"] = photos(test, np.argsort(true, kind="stable")[:COUNT])

    quarter = keras.applications.MobileNet(
        alpha=0.25, include_top=False, weights="imagenet", input_shape=(224, 224, 3)
    )
    scaled = keras.layers.Rescaling(1 / 127.5, offset=-1)
    small = kt.classifier(quarter, len(names), preprocessing=scaled, class_names=names, seed=0)
    results = {
        "MobileNetV2": result,
        "MobileNet, 1/4": kt.fine_tune(small, train, held_back, phases("conv_dw_13")),
    }
    save(kt.plots.compare(results), output / "compare.png")

    page = kt.report(
        result,
        test,
        output / "report.html",
        train=train,
        evaluation=evaluation,
        title="Five kinds of flowers",
        command="KERAS_BACKEND=torch python tools/docs_pictures.py",
    )
    wrong = np.flatnonzero(after.argmax(axis=1) != labels)
    shown[page.name] = photos(test, wrong[np.argsort(true[wrong], kind="stable")][:12])
    lines = [f"{name}: {files}" for name, files in sorted(shown.items())]
    (output / "photos.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
