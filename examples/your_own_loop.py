"""A training loop of your own, with a rate for every layer, a schedule, and layers that thaw on the way.

`model.fit` isn't everybody's loop. Nothing in `keras_transfer` needs it: `LayerwiseLR` is a Keras
optimizer, a schedule is a function of its step, freezing is a flag of a layer. Here they stand in the
three loops that Keras' own guides write by hand: `GradientTape` on TensorFlow, `loss.backward()` on
PyTorch, and `stateless_call` with `value_and_grad` on JAX.

The training has two stages. At first the head trains alone; then, in the middle of the one cycle of the
learning rate, the last block of the backbone joins. Three things hold on to what trains, and all three
have to be told:

* **The optimizer** was built for a list of variables. `kt.recompile` replaces it by one for the new
  list, which knows what the old one knew: the head keeps its moments, the count of steps goes on, so
  that the schedule does, too, and the block begins with a bias correction of its own.
* **The step**, where it is compiled: `tf.function` and `jax.jit` have the old list in them.
* **The state**, on JAX: weights live in the loop's tuple while it runs, in the order of the lists. They
  must go back into the model before layers change sides.

So each stage is one call of the loop, which builds the step and the state from what trains now.

It is done three times from the same weights: by the loop; by the loop again, with the frozen part
computed once instead of in every epoch; and by `model.fit`. All three end with the same weights, up to
rounding, and so do the three backends: a `kt.Loader` gives the same images in the same order everywhere.

    python examples/your_own_loop.py --backend jax
    python examples/your_own_loop.py --backend torch --folder photos --weights imagenet

Without `--folder` the images are drawn here: stripes of eight directions under noise. Without
`--weights` the backbone is a small network with random weights, drawn by NumPy, as Keras' initializers
draw other numbers on each backend; with them it is MobileNetV2. It writes a picture of rates and losses,
`loop.png`.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

CLASSES = 8
STAGES = ("the head", "the last block and the head")  # groups from -1 on, then from -2 on
DIRECTIONS = [f"{180 * k / CLASSES:g} degrees" for k in range(CLASSES)]


def parse_arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--backend", choices=["tensorflow", "torch", "jax"], help="Keras' backend")
    parser.add_argument("--weights", default="none", help="imagenet, none, or a file of weights")
    parser.add_argument("--folder", type=Path, help="your own images, a folder for each class")
    parser.add_argument("--samples", type=int, default=2048, help="images to draw")
    parser.add_argument("--epochs", type=int, nargs=2, default=[2, 4], metavar=("HEAD", "BLOCK"))
    parser.add_argument("--rate", type=float, help="of the head, at its highest; 1e-2, MobileNetV2 1e-3")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("loop_run"), help="a folder")
    parser.add_argument("--quick", action="store_true", help="only see that it works: few images")
    arguments = parser.parse_args()
    if min(arguments.epochs) < 1 or arguments.samples < CLASSES or arguments.seed < 0:
        parser.error("epochs must be at least 1, samples at least 8 and the seed at least 0")
    if arguments.quick:
        arguments.samples, arguments.epochs = min(arguments.samples, 192), [1, 2]
    if arguments.rate is None:
        arguments.rate = 1e-2 if arguments.weights == "none" else 1e-3
    return arguments


# --- Images and network ---------------------------------------------------------------------------


def load_images(arguments: argparse.Namespace) -> kt.Loader:
    """Return the images to train on; the loader owns their order."""
    options = {"batch_size": arguments.batch_size, "seed": arguments.seed}
    if arguments.folder:
        size = 32 if arguments.weights == "none" else 96
        part = "train" if (arguments.folder / "train").is_dir() else None
        return kt.data.from_directory(arguments.folder, part=part, image_size=size, **options)
    return kt.Loader(draw(arguments.samples, arguments.seed), class_names=DIRECTIONS, **options)


def draw(samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images of shape (samples, 32, 32, 3), stripes under noise, and their directions."""
    rng = np.random.default_rng(seed)
    labels = np.arange(samples) % CLASSES
    angles = labels * np.pi / CLASSES
    rows, columns = np.mgrid[:32, :32]
    along = np.cos(angles)[:, None, None] * columns + np.sin(angles)[:, None, None] * rows
    stripes = np.sin(along + rng.uniform(0, 2 * np.pi, (samples, 1, 1)))[..., None]
    noisy = 128 + 40 * (stripes + rng.normal(0, 1.0, (samples, 32, 32, 3)))
    return np.clip(noisy, 0, 255).astype("uint8"), labels


def build(arguments: argparse.Namespace, loader: kt.Loader) -> keras.Model:
    """Return a classifier that ends in logits, with the same weights each time on each backend."""
    classes = len(loader.class_names)
    if arguments.weights == "none":
        scaled = keras.layers.Rescaling(1 / 127.5, offset=-1)  # pixels 0-255 to -1 ... 1
        model = kt.classifier(small_backbone(), classes, preprocessing=scaled)
        draw_weights(model.layers, arguments.seed)
    else:
        size = loader.image_size or (32, 32)
        model = kt.classifier("mobilenet_v2", classes, image_size=size, weights=arguments.weights)
        draw_weights([model.get_layer("predictions")], arguments.seed)
    # The loss is taken before the softmax: there the three backends agree to the last digits.
    return keras.Model(model.inputs, model.get_layer("predictions").output, name="logits")


def small_backbone() -> keras.Model:
    """Build three blocks of convolution and pooling."""
    inputs = x = keras.Input((32, 32, 3))
    for block, filters in enumerate((16, 32, 32), start=1):
        x = keras.layers.Conv2D(
            filters, 3, padding="same", activation="relu", name=f"block{block}_conv"
        )(x)
        x = keras.layers.MaxPooling2D(name=f"block{block}_pool")(x)
    return keras.Model(inputs, x, name="small")


def draw_weights(layers: list[keras.Layer], seed: int) -> None:
    """Give kernels random values (He et al., 2015), and biases 0."""
    rng = np.random.default_rng(seed)
    for layer in layers:
        for weight in layer.weights:
            fan_in = max(math.prod(weight.shape[:-1]), 1)
            spread = math.sqrt(2 / fan_in) if len(weight.shape) > 1 else 0.0
            weight.assign(rng.normal(0.0, spread, weight.shape) if spread else np.zeros(weight.shape))


# --- The three loops ------------------------------------------------------------------------------
# Each trains what is trainable now, on batches that somebody else counts, and returns all losses.

Loss = Callable[..., object]
Batches = Iterable[tuple["np.ndarray", "np.ndarray"]]


def tensorflow_loop(
    model: keras.Model, optimizer: keras.optimizers.Optimizer, loss_fn: Loss, batches: Batches
) -> list[float]:
    """Train with a GradientTape, as https://keras.io/guides/writing_a_custom_training_loop_in_tensorflow."""
    import tensorflow as tf

    weights = model.trainable_weights

    @tf.function(reduce_retracing=True)  # a new one for each stage, as it keeps the list in it
    def train_step(x, y):
        with tf.GradientTape() as tape:
            loss = loss_fn(y, model(x, training=True))
        optimizer.apply(tape.gradient(loss, weights), weights)
        return loss

    return [float(train_step(x, y)) for x, y in batches]


def torch_loop(
    model: keras.Model, optimizer: keras.optimizers.Optimizer, loss_fn: Loss, batches: Batches
) -> list[float]:
    """Train with backward(), as https://keras.io/guides/writing_a_custom_training_loop_in_torch."""
    import torch

    weights = model.trainable_weights  # those of frozen layers have requires_grad=False, and no grad
    losses = []
    for x, y in batches:
        loss = loss_fn(y, model(x, training=True))
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            optimizer.apply([weight.value.grad for weight in weights], weights)
        losses.append(loss.item())
    return losses


def jax_loop(
    model: keras.Model, optimizer: keras.optimizers.Optimizer, loss_fn: Loss, batches: Batches
) -> list[float]:
    """Train without side effects, as https://keras.io/guides/writing_a_custom_training_loop_in_jax."""
    import jax

    def compute_loss(trainable, non_trainable, x, y):
        y_pred, non_trainable = model.stateless_call(trainable, non_trainable, x, training=True)
        return loss_fn(y, y_pred), non_trainable

    @jax.jit
    def train_step(state, x, y):
        trainable, non_trainable, slots = state
        gradient = jax.value_and_grad(compute_loss, has_aux=True)
        (loss, non_trainable), grads = gradient(trainable, non_trainable, x, y)
        trainable, slots = optimizer.stateless_apply(slots, grads, trainable)
        return loss, (trainable, non_trainable, slots)

    # In which of the first two lists a variable stands changes with what trains.
    variables = model.trainable_variables, model.non_trainable_variables, optimizer.variables
    state = tuple([variable.value for variable in part] for part in variables)
    losses = []
    for x, y in batches:
        loss, state = train_step(state, x, y)
        losses.append(float(loss))
    for part, values in zip(variables, state, strict=True):  # back into model and optimizer
        for variable, value in zip(part, values, strict=True):
            variable.assign(value)
    return losses


LOOPS = {"tensorflow": tensorflow_loop, "torch": torch_loop, "jax": jax_loop}


def epochs_of(loader: kt.Loader, epochs: int, what: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the batches of some epochs, with a bar; each epoch has an order of its own."""
    steps = (batch for _ in range(epochs) for batch in loader)
    for x, y in track(steps, f"{what:<36}", total=epochs * len(loader), console=Console()):
        yield keras.ops.convert_to_tensor(x, "float32"), keras.ops.convert_to_tensor(y, "int32")


# --- The same training, three times ---------------------------------------------------------------


def begin(model: keras.Model, arguments: argparse.Namespace, steps: int) -> None:
    """Let the head train, with an optimizer whose rate every layer takes in its own measure."""
    kt.freeze_to(model, -1)
    schedule = kt.schedules.OneCycle(arguments.rate, steps)  # of both stages
    optimizer = kt.optimizers.LayerwiseLR(
        keras.optimizers.AdamW(schedule, weight_decay=1e-2),
        kt.multipliers.geometric(model, 3.0),  # each group a third of the next, frozen or not
    )
    # A loop of one's own needs no compile; this tells kt.recompile which optimizer to take over.
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    optimizer.build(model.trainable_variables)


def go_on(model: keras.Model) -> None:
    """Let the last block join, with an optimizer that knows what the one before knew."""
    kt.freeze_to(model, -2)
    kt.recompile(model)


def by_loop(model: keras.Model, loader: kt.Loader, arguments: argparse.Namespace) -> list[float]:
    """Train both stages with the loop of the backend."""
    loop = LOOPS[keras.backend.backend()]
    begin(model, arguments, sum(arguments.epochs) * len(loader))
    losses = []
    for stage, epochs in enumerate(arguments.epochs):
        if stage:
            go_on(model)
        Console().print(kt.trainable_table(model).summary())  # with the rates of the next step
        batches = epochs_of(loader, epochs, STAGES[stage])
        losses += loop(model, model.optimizer, model.loss, batches)
    return losses


def by_loop_with_cache(
    model: keras.Model, loader: kt.Loader, arguments: argparse.Namespace
) -> list[float]:
    """Train both stages with the loop of the backend, on what the frozen part makes of the images."""
    loop = LOOPS[keras.backend.backend()]
    begin(model, arguments, sum(arguments.epochs) * len(loader))
    losses = []
    with tempfile.TemporaryDirectory() as folder:
        for stage, epochs in enumerate(arguments.epochs):
            if stage:
                go_on(model)
            # The tail shares its layers with the model: what it learns, the model has learned.
            prefix, tail = kt.split_model(model, kt.frozen_prefix(model))
            # By Keras, as the losses are compared; by default ONNX Runtime is quicker, within 1e-5.
            cache = kt.FeatureCache(prefix, folder, runtime="keras")
            features = cache.build(loader, verbose=0)
            batches = epochs_of(features, epochs, f"{STAGES[stage]}, cached")
            losses += loop(tail, model.optimizer, model.loss, batches)
            loader.epoch = features.epoch  # the next stage goes on with the order of its epochs
    return losses


def by_fit(model: keras.Model, loader: kt.Loader, arguments: argparse.Namespace) -> list[float]:
    """Train both stages with `fit`; of the losses it tells the means of the epochs."""
    begin(model, arguments, sum(arguments.epochs) * len(loader))
    losses = []
    for stage, epochs in enumerate(arguments.epochs):
        if stage:
            go_on(model)
        losses += model.fit(loader, epochs=epochs, verbose=2).history["loss"]
    return losses


WAYS = {"own loop": by_loop, "own loop, cached": by_loop_with_cache, "model.fit": by_fit}


# --- What came of it ------------------------------------------------------------------------------


def final_loss(model: keras.Model, loader: kt.Loader) -> float:
    """Return the mean loss of all images with the weights as they are now, with all digits."""
    logits = model.predict(loader.replace(shuffle=False), verbose=0).astype("float64")
    logits -= logits.max(axis=1, keepdims=True)
    labels = loader.known_labels()
    of_truth = np.take_along_axis(logits, labels[:, None].astype(int), axis=1)[:, 0]
    return float(np.mean(np.log(np.exp(logits).sum(axis=1)) - of_truth))


def flat(model: keras.Model) -> np.ndarray:
    """Return all weights as one vector."""
    return np.concatenate([weight.ravel().astype("float64") for weight in model.get_weights()])


def plot(model: keras.Model, losses: list[float], arguments: argparse.Namespace, steps: int) -> Figure:
    """Draw the rate of each group while it trains, and the loss of every step of the loop."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    schedule = kt.schedules.OneCycle(arguments.rate, len(losses))
    rates = np.array([float(keras.ops.convert_to_numpy(schedule(k))) for k in range(len(losses))])
    multipliers = kt.multipliers.geometric(model, 3.0)
    joins = arguments.epochs[0] * steps
    for start, group in zip((0, joins), reversed(kt.layer_groups(model)), strict=False):
        weight = next(weight for layer in group.layers for weight in layer.weights)
        left.plot(range(start, len(rates)), multipliers[weight.path] * rates[start:], label=group.name)
    right.plot(losses, linewidth=1, color="#0072B2")
    for axes, label in ((left, "learning rate"), (right, "loss of the batch")):
        axes.axvline(joins, color="0.4", linewidth=1, linestyle=":")
        axes.set(xlabel="step", ylabel=label)
        axes.grid(color="0.9")
    left.legend(fontsize=8)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a picture whole or not at all."""
    part = path.with_suffix(".part.png")
    figure.savefig(part, dpi=120)
    part.replace(path)


def main(arguments: argparse.Namespace) -> None:
    """Train in three ways from the same weights, and compare what comes of it."""
    console = Console()
    backend = keras.backend.backend()
    table = Table(title=f"The same training in three ways, on {backend}")
    for column in ("way", "loss", "norm of change", "off by", "seconds"):
        table.add_column(column, justify="left" if column == "way" else "right", no_wrap=True)
    reference = None
    for way, train in WAYS.items():
        console.rule(way)
        loader = load_images(arguments)
        model = build(arguments, loader)
        before = flat(model)
        started = time.perf_counter()
        losses = train(model, loader, arguments)
        seconds = time.perf_counter() - started
        after = flat(model)
        if reference is None:
            reference = after
            arguments.output.mkdir(parents=True, exist_ok=True)
            save(plot(model, losses, arguments, len(loader)), arguments.output / "loop.png")
        off_by = np.linalg.norm(after - reference) / np.linalg.norm(reference)
        change = np.linalg.norm(after - before)
        cells = f"{final_loss(model, loader):.8f}", f"{change:.8f}", f"{off_by:.1e}", f"{seconds:.1f}"
        table.add_row(way, *cells)
    console.print(table)
    console.print(
        '"off by" is the norm of the difference of all weights from those of the first row, as a part '
        "of their norm. Loss and norm of change are the same on each backend, up to rounding."
    )
    console.print(f"Written: {arguments.output / 'loop.png'}")


if __name__ == "__main__":
    # Each stage compiles steps of its own, which TensorFlow takes for a mistake and warns about.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    arguments = parse_arguments()
    if arguments.backend:
        os.environ["KERAS_BACKEND"] = arguments.backend  # Keras reads it when it is imported
    import keras
    import numpy as np
    from matplotlib.figure import Figure
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table

    import keras_transfer as kt

    try:
        main(arguments)
    except (ConnectionError, ImportError, ValueError) as error:
        sys.exit(f"your_own_loop: {error}")
