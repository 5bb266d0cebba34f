"""A linear SVM on pretrained features: the end of the tutorial on CIFAR-10 with VGG16.

Where there are few images, or no time to train, a pretrained network can be left as it is. What its
last pooling layer makes of an image (its features) goes into a linear classifier, which is found in
seconds and is the same each time. The tutorial ends with two of them, a support vector machine and
logistic regression. Here both are fitted

* to the features of the last pooling layer, `block5_pool`, and
* to those of an earlier one, `block4_pool`: the later a layer, the more its features are about the
  classes of ImageNet. Where the images are far from ImageNet's photographs, an earlier layer may do
  better.

C, the inverse of the strength of regularisation, is chosen by cross-validation on the training images
alone (`kt.fit_linear_head`). Beside the accuracy on the test images the table has what cross-validation
on the training images says beforehand (`kt.features.cross_validate_head`, which chooses C anew within
each fold). Choose layer and classifier by that: the test images are for one look at the end.

    python examples/svm_on_features.py --backend jax
    python examples/svm_on_features.py --backbone mobilenet_v2 --image-size 96 --samples 1000
    python examples/svm_on_features.py --folder photos --image-size 224

CIFAR-10 and the weights are downloaded when they are first used. `--folder` takes photographs instead: a
folder for each class, in DIR/train and DIR/val, or in DIR itself (a fifth is for the test then).

Where this departs from the tutorial, and why:

* Images are enlarged by interpolation and preprocessed as VGG16 was trained; see `cifar10_finetune.py`.
* A map of features is averaged over its places before it is classified, so that there are 512 of them at
  any image size. At the tutorial's 48 pixels the last layer gives one place only, which is the same.
* The tutorial takes C as it comes.
* 5,000 training images are enough to see it, and the nested cross-validation takes minutes; with
  `--samples 50000`, which takes all, it takes much longer.

What comes out is no pair of scikit-learn and Keras: the classifier of the best row is written into the
network as its output layer. `model.keras` takes raw images, opens in stock Keras, and can be fine-tuned
from there. An SVM's scores put the classes in order, but the percentages of them (in `predictions.png`)
are no probabilities.
"""

from __future__ import annotations  # so that a type hint imports no Keras

import argparse
import io
import os
import sys
from dataclasses import dataclass
from pathlib import Path

# The last layer and an earlier one of each backbone. Any other pair: --layers.
LAYERS = {
    "vgg16": ("block5_pool", "block4_pool"),
    "vgg19": ("block5_pool", "block4_pool"),
    "resnet50": ("conv5_block3_out", "conv4_block6_out"),
    "mobilenet": ("conv_pw_13_relu", "conv_pw_11_relu"),
    "mobilenet_v2": ("out_relu", "block_12_add"),
}
METHODS = {"svm": "linear SVM", "logistic": "logistic regression"}


@dataclass(frozen=True)
class Score:
    """How well one classifier on one layer does."""

    layer: str
    method: str
    expected: kt.features.HeadScore  # on the training images, by cross-validation
    test: float
    model: keras.Model


def parse_arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--backend", choices=["tensorflow", "torch", "jax"], help="Keras' backend")
    parser.add_argument("--folder", type=Path, help="photographs, instead of CIFAR-10")
    parser.add_argument("--backbone", choices=LAYERS, default="vgg16")
    parser.add_argument(
        "--weights", default="imagenet", help="imagenet, none, or a file of the backbone's weights"
    )
    parser.add_argument(
        "--layers", nargs="+", help="names of layers; without it the last and an earlier one"
    )
    parser.add_argument("--image-size", type=int, default=48, help="pixels")
    parser.add_argument("--samples", type=int, default=5000, help="training images of CIFAR-10")
    parser.add_argument("--test-samples", type=int, default=10000, help="test images of CIFAR-10")
    parser.add_argument("--folds", type=int, default=5, help="of the cross-validation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--quick", action="store_true", help="only see that it works: tiny and untrained"
    )
    parser.add_argument("--output", type=Path, default=Path("svm_run"), help="a folder")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.weights, arguments.image_size, arguments.folds = "none", 32, 3
    if arguments.layers is None:
        arguments.layers = ("pool2", "pool1") if arguments.quick else LAYERS[arguments.backbone]
    return arguments


# --- The images -----------------------------------------------------------------------------------


def load_data(arguments: argparse.Namespace) -> tuple[kt.Loader, kt.Loader]:
    """Return the images for training and for the test, never augmented."""
    options = {"image_size": arguments.image_size, "seed": arguments.seed, "shuffle": False}
    if arguments.folder:
        if (arguments.folder / "val").is_dir():
            train, test = (
                kt.data.from_directory(arguments.folder, part=part, **options)
                for part in ("train", "val")
            )
            return train, test
        return kt.data.from_directory(arguments.folder, **options).split(0.2)
    if arguments.quick:
        return drawn(60, arguments), drawn(30, arguments)
    return (
        kt.data.load("cifar10", f"train[:{arguments.samples}]", **options),
        kt.data.load("cifar10", f"test[:{arguments.test_samples}]", **options),
    )


def drawn(count: int, arguments: argparse.Namespace) -> kt.Loader:
    """Draw stripes of three kinds: enough to see that everything runs."""
    rng = np.random.default_rng(count)
    y = np.arange(count) % 3
    rows, columns = np.mgrid[:32, :32]
    stripes = np.stack([rows % 4 < 2, columns % 4 < 2, (rows + columns) % 8 < 4])[y]
    x = 100 * stripes[..., None] + rng.integers(0, 156, (count, 32, 32, 3))
    return kt.Loader(
        (x.astype("uint8"), y),
        shuffle=False,
        image_size=arguments.image_size,
        class_names=["lying", "upright", "slanting"],
    )


# --- Features and classifiers ---------------------------------------------------------------------


def build(arguments: argparse.Namespace, names: list[str]) -> keras.Model:
    """Return the pretrained network; its output layer is random and gives way to what is fitted."""
    keras.utils.set_random_seed(arguments.seed)
    if arguments.quick:
        return small_network(arguments, names)
    return kt.classifier(
        arguments.backbone,
        len(names),
        image_size=arguments.image_size,
        weights=None if arguments.weights == "none" else arguments.weights,
        class_names=names,
        seed=arguments.seed,
    )


def small_network(arguments: argparse.Namespace, names: list[str]) -> keras.Model:
    """Return a network that never saw an image, for --quick; even random features tell stripes apart."""
    inputs = keras.Input((arguments.image_size, arguments.image_size, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    for block, filters in enumerate((8, 16), start=1):
        x = keras.layers.Conv2D(filters, 3, activation="relu", name=f"conv{block}")(x)
        x = keras.layers.MaxPooling2D(name=f"pool{block}")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    outputs = keras.layers.Dense(len(names), activation="softmax")(x)
    network = keras.Model(inputs, outputs, name="small_network")
    return kt.replace_head(network, len(names), class_names=names, seed=arguments.seed)


def score(
    arguments: argparse.Namespace,
    network: keras.Model,
    data: tuple[kt.Loader, kt.Loader],
    layer: str,
    method: str,
) -> Score:
    """Fit a classifier to the features of a layer, and see how well it does."""
    train, test = data
    # The features are computed once for each layer, and wait in a folder for the second classifier.
    options = {
        "at": layer,
        "method": method,
        "folds": arguments.folds,
        "seed": arguments.seed,
        "cache": arguments.output / "features",
    }
    expected = kt.features.cross_validate_head(network, train, **options)
    model = kt.fit_linear_head(network, train, **options)
    found = kt.evaluation.evaluate(model, test, verbose=0)
    return Score(layer, method, expected, found.accuracy, model)


def main(arguments: argparse.Namespace) -> None:
    """Fit all classifiers, show how well they do, and keep the one that is expected to be best."""
    console = Console()
    data = load_data(arguments)
    train, test = data
    network = build(arguments, train.class_names)
    arguments.output.mkdir(parents=True, exist_ok=True)
    console.print(f"{train.num_samples:,} images for training, {test.num_samples:,} for the test")

    scores = []
    for layer in arguments.layers:
        for method, name in METHODS.items():
            console.print(f"[bold]{name} on {layer}")
            scores.append(score(arguments, network, data, layer, method))
    best = max(scores, key=lambda each: each.expected.mean)

    text = io.StringIO()
    for each in (console, Console(file=text, width=100)):
        each.print(table(scores))
        each.print(f"By cross-validation the best: {METHODS[best.method]} on {best.layer}")
    save(arguments, "accuracy.txt", text.getvalue())
    save(arguments, "accuracy.png", draw_scores(scores))
    save(arguments, "predictions.png", kt.plots.show_predictions(best.model, test))
    save(arguments, "model.keras", best.model)
    console.print(
        f"In {arguments.output}: accuracy.txt, accuracy.png, predictions.png, model.keras and features/",
        highlight=False,
    )


# --- What is shown --------------------------------------------------------------------------------


def table(scores: list[Score]) -> Table:
    """Return the accuracies: a row for each layer and classifier."""
    made = Table(title="Accuracy")
    made.add_column("features of")
    made.add_column("classifier")
    made.add_column("cross-validated", justify="right")
    made.add_column("on the test images", justify="right")
    for each in scores:
        expected = f"{each.expected.mean:.1%} +- {each.expected.std:.1%}"
        made.add_row(each.layer, METHODS[each.method], expected, f"{each.test:.1%}")
    return made


def draw_scores(scores: list[Score]) -> Figure:
    """Plot what was expected, with its deviation among folds, beside what the test says."""
    labels = [f"{METHODS[each.method]}\non {each.layer}" for each in scores]
    figure = Figure(figsize=(7, 1.2 + 0.6 * len(labels)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(labels))
    means, deviations = ([getattr(each.expected, key) for each in scores] for key in ("mean", "std"))
    axes.errorbar(means, places - 0.1, xerr=deviations, fmt="o", capsize=3, label="cross-validated")
    axes.plot([each.test for each in scores], places + 0.1, "s", label="test images")
    axes.set_yticks(places, labels, fontsize=8)
    lowest = min(np.subtract(means, deviations).min(), *(each.test for each in scores))
    axes.set(xlabel="accuracy", xlim=(lowest - 0.03, 1.02), ylim=(len(labels) - 0.5, -0.5))
    axes.grid(axis="x", color="0.9")
    axes.legend(fontsize=8, loc="lower left")
    return figure


def save(arguments: argparse.Namespace, name: str, content: Figure | keras.Model | str) -> None:
    """Write a picture, a model or a text whole or not at all: under another name first."""
    part = arguments.output / f".{name}"
    if isinstance(content, str):
        part.write_text(content, encoding="utf-8")
    elif isinstance(content, Figure):
        content.savefig(part, dpi=120)
    else:
        content.save(part)
    os.replace(part, arguments.output / name)


if __name__ == "__main__":
    arguments = parse_arguments()
    if arguments.backend:
        os.environ["KERAS_BACKEND"] = arguments.backend  # Keras reads it when it is imported
    import keras
    import numpy as np
    from matplotlib.figure import Figure
    from rich.console import Console
    from rich.table import Table

    import keras_transfer as kt

    try:
        main(arguments)
    except (ConnectionError, ImportError, OSError, ValueError) as error:
        sys.exit(f"svm_on_features: {error}")
