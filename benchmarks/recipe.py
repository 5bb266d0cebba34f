"""A two-stage recipe with cached features, with plain Keras, and with PyTorch written by hand.

All train the same network on the same images for the same epochs, with validation after each: the head,
then everything from a late block on. The weights are random, as only time is measured, from the call to
the end, compilation included.

- "keras_transfer" is `fine_tune` as it is, "bfloat16" the same with a frozen part that computes so.
- "plain Keras" freezes, compiles and fits, twice.
- "PyTorch" is a loop with `torch.optim.Adam`, channels last, without gradients for the frozen part.
- "the bound" is what cannot be saved: one bare `predict` of the frozen part for all images, and `fit` of
  the rest on arrays in memory. "compiled" is the same with `jit_compile=True`: torch.compile, or XLA.

Without a cache each epoch of a stage costs the same; `--part 5` trains "plain Keras" and "PyTorch" for a
fifth of the epochs, and counts the last epoch of each stage for those that are left out.

    python benchmarks/recipe.py --backend torch                       # VGG16 at 48 px: 10 + 15 epochs
    python benchmarks/recipe.py --backend torch --network resnet50    # at 224 px: 16 + 8 epochs
"""

import argparse
import functools
import os
import time
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Recipe:
    """What is trained, and for how long."""

    network: str
    size: int
    images: int
    validation: int
    batch_size: int
    head: dict
    begins: str  # the first layer that trains in the second stage
    behind: str  # the layer before it
    epochs: tuple[int, int]


RECIPES = {
    "vgg16": Recipe(
        "vgg16",
        48,
        4000,
        1000,
        256,
        {"pooling": "flatten", "hidden_units": (1000,), "dropout": 0.3},
        "block5_conv1",
        "block4_pool",
        (10, 15),
    ),
    "resnet50": Recipe(
        "resnet50", 224, 256, 64, 32, {}, "conv5_block1_1_conv", "conv4_block6_out", (16, 8)
    ),
}
CLASSES = 10
SIDES = ("keras_transfer", "bfloat16", "plain Keras", "PyTorch", "the bound", "compiled")


def arguments():
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backend", choices=("tensorflow", "torch", "jax"), default="torch")
    parser.add_argument("--network", choices=RECIPES, default="vgg16")
    parser.add_argument("--epochs", type=int, nargs=2, help="of the two stages, for a shorter run")
    parser.add_argument("--part", type=int, default=1, help="divides the epochs of what has no cache")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    return parser.parse_args()


given = arguments()
os.environ["KERAS_BACKEND"] = given.backend
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import torch  # noqa: E402, I001  before TensorFlow
import keras  # noqa: E402  after the choice of the backend
import numpy as np  # noqa: E402
import rich.console  # noqa: E402
import rich.table  # noqa: E402

import keras_transfer as kt  # noqa: E402

RATES = (1e-3, 1e-4)


def data(recipe):
    """Return random images and labels for training and validation."""
    rng = np.random.default_rng(0)
    count, size = recipe.images + recipe.validation, recipe.size
    x = rng.integers(0, 256, (count, size, size, 3), "uint8")
    y = rng.integers(0, CLASSES, count)
    return (x[: recipe.images], y[: recipe.images]), (x[recipe.images :], y[recipe.images :])


def classifier(recipe):
    """Return the network with random weights."""
    return kt.classifier(recipe.network, CLASSES, image_size=recipe.size, weights=None, **recipe.head)


def keras_transfer(recipe, train, validation, **options):
    """`fine_tune`, with all its defaults."""
    phases = [
        kt.Phase("head", recipe.epochs[0], learning_rate=RATES[0]),
        kt.Phase("block", recipe.epochs[1], train=f"from:{recipe.begins}", learning_rate=RATES[1]),
    ]
    model = classifier(recipe)
    kt.fine_tune(model, train, validation, phases, batch_size=recipe.batch_size, verbose=0, **options)


def plain_keras(recipe, train, validation):
    """Freeze, compile, fit, twice; return when each epoch of the two ended."""
    ends = []
    model = classifier(recipe)
    names = [layer.name for layer in model.layers]
    for rate, epochs, first in zip(RATES, recipe.epochs, (None, recipe.begins), strict=True):
        head = {"fc1", "predictions"}
        start = len(names) if first is None else names.index(first)
        for index, layer in enumerate(model.layers):
            norm = isinstance(layer, keras.layers.BatchNormalization)
            layer.trainable = not norm and (layer.name in head or index >= start)
        model.compile(
            keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"]
        )
        ends.append([])
        clock = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda *_: ends[-1].append(time.perf_counter())
        )
        model.fit(
            *train,
            batch_size=recipe.batch_size,
            epochs=epochs,
            validation_data=validation,
            verbose=0,
            callbacks=[clock],
        )
    return ends


def bound(recipe, train, validation, jit_compile="auto"):
    """One pass of the frozen part, and training of the rest on arrays in memory."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    batch = recipe.batch_size
    model = classifier(recipe)
    view = keras.Model(model.inputs, model.get_layer("predictions").output)
    prefix, tail = kt.split_model(view, recipe.behind)
    kt.freeze_backbone(model)
    deeper, head = kt.split_model(tail, kt.frozen_prefix(tail))
    x = [prefix.predict(images, batch, verbose=0) for images, _ in (train, validation)]
    features = [deeper.predict(images, batch, verbose=0) for images in x]
    stages = ((head, features), (tail, x))
    for (part, (a, b)), rate, epochs in zip(stages, RATES, recipe.epochs, strict=True):
        if part is tail:
            kt.unfreeze_from(model, recipe.begins)
        part.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"], jit_compile=jit_compile)
        part.fit(
            a,
            train[1],
            batch_size=batch,
            epochs=epochs,
            validation_data=(b, validation[1]),
            verbose=0,
        )


def torch_network(recipe):
    """Return (frozen part, block, head) of the network, in torch's own layers."""
    nn = torch.nn
    if recipe.network != "vgg16":
        return torch_resnet50()
    layers, channels = [], 3
    for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
            channels = width
        layers.append(nn.MaxPool2d(2))
    head = [nn.Flatten(), nn.Linear(512, 1000), nn.ReLU(), nn.Dropout(0.3), nn.Linear(1000, CLASSES)]
    return nn.Sequential(*layers[:-7]), nn.Sequential(*layers[-7:]), nn.Sequential(*head)


class Bottleneck(torch.nn.Module):
    """A block of ResNet50."""

    def __init__(self, channels, width, stride):
        super().__init__()
        nn = torch.nn

        def conv(a, b, size, step=1):
            return [nn.Conv2d(a, b, size, step, size // 2), nn.BatchNorm2d(b)]

        self.body = nn.Sequential(
            *conv(channels, width, 1, stride),
            nn.ReLU(inplace=True),
            *conv(width, width, 3),
            nn.ReLU(inplace=True),
            *conv(width, 4 * width, 1),
        )
        changes = stride > 1 or channels != 4 * width
        self.shortcut = nn.Sequential(*(conv(channels, 4 * width, 1, stride) if changes else []))

    def forward(self, x):
        """Add the body to the shortcut."""
        return torch.relu(self.body(x) + self.shortcut(x))


def torch_resnet50():
    """Return (frozen part, last stage, head) of ResNet50."""
    nn = torch.nn
    stem = [nn.Conv2d(3, 64, 7, 2, 3), nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
    stages, channels = [], 64
    for width, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        blocks = []
        for index in range(count):
            blocks.append(Bottleneck(channels, width, stride if index == 0 else 1))
            channels = 4 * width
        stages.append(nn.Sequential(*blocks))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, CLASSES))
    return nn.Sequential(*stem, *stages[:-1]), stages[-1], head


def pytorch(recipe, train, validation):
    """A loop by hand; return when each epoch of the two stages ended."""
    ends = []
    tensors = [
        (torch.from_numpy(x).permute(0, 3, 1, 2), torch.from_numpy(y)) for x, y in (train, validation)
    ]
    frozen, block, head = (part.to(memory_format=torch.channels_last) for part in torch_network(recipe))
    mean = torch.tensor([123.7, 116.8, 103.9]).view(1, 3, 1, 1)
    loss = torch.nn.CrossEntropyLoss()
    for part in (frozen, block):
        part.eval()  # batch norm stays as it is
        part.requires_grad_(requires_grad=False)

    def logits(x, trained):
        x = (x.float() - mean).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            x = frozen(x) if block in trained else block(frozen(x))
        return head(block(x) if block in trained else x)

    for trained, rate, epochs in zip(([head], [block, head]), RATES, recipe.epochs, strict=True):
        weights = []
        for part in trained:
            part.requires_grad_()
            weights += part.parameters()
        optimizer = torch.optim.Adam(weights, rate)
        ends.append([])
        for _ in range(epochs):
            head.train()
            x, y = tensors[0]
            for rows in torch.randperm(len(x)).split(recipe.batch_size):
                optimizer.zero_grad()
                loss(logits(x[rows], trained), y[rows]).backward()
                optimizer.step()
            head.eval()
            with torch.no_grad():
                x, y = tensors[1]
                for rows in torch.arange(len(x)).split(recipe.batch_size):
                    (logits(x[rows], trained).argmax(1) == y[rows]).float().mean().item()
            ends[-1].append(time.perf_counter())
    return ends


def timed(side, recipe, *data, part):
    """Return the seconds of a side; for a part of the epochs, as if the last of each stage went on."""
    epochs = tuple(number // part for number in recipe.epochs)
    start = time.perf_counter()
    ends = side(replace(recipe, epochs=epochs), *data)
    seconds = time.perf_counter() - start
    if part > 1:
        for stage, (all_epochs, run) in zip(ends, zip(recipe.epochs, epochs, strict=True), strict=True):
            seconds += (all_epochs - run) * (stage[-1] - stage[-2])
    return seconds


def main():
    """Measure and print a table."""
    recipe = RECIPES[given.network]
    if given.epochs:
        recipe = replace(recipe, epochs=tuple(given.epochs))
    sides = {
        "keras_transfer": keras_transfer,
        "bfloat16": lambda *task: keras_transfer(*task, cache=kt.CacheOptions(compute_dtype="bfloat16")),
        "plain Keras": plain_keras,
        "PyTorch": pytorch,
        "the bound": bound,
        "compiled": functools.partial(bound, jit_compile=True),
    }
    task = (recipe, *data(recipe))
    console = rich.console.Console(width=100)
    seconds = {}
    for name in given.sides:
        uncached = name in ("plain Keras", "PyTorch")
        seconds[name] = timed(sides[name], *task, part=given.part if uncached else 1)
        console.print(f"{name}: {seconds[name]:.1f} s")
        keras.utils.clear_session()
    title = f"{given.backend}: {recipe.network}, {recipe.images} images, {recipe.epochs} epochs"
    table = rich.table.Table("", "seconds", "over keras_transfer", title=title)
    for name, value in seconds.items():
        table.add_row(name, f"{value:.1f}", f"{value / seconds.get('keras_transfer', value):.2f}")
    console.print(table)


if __name__ == "__main__":
    main()
