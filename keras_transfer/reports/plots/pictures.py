"""Pictures: images with what they are, and what a model says of them."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from matplotlib.figure import Figure

from keras_transfer._lib.checks import checked_integer
from keras_transfer._lib.messages import SILENT
from keras_transfer.data.inputs import as_loader, checked_loader
from keras_transfer.data.loader import Loader
from keras_transfer.inference.predictions import predictions
from keras_transfer.layers.about import class_names
from keras_transfer.reports.plots.lettering import Lettering, lettering
from keras_transfer.reports.plots.style import BLACK, BLUE, VERMILION
from keras_transfer.tasks.single_label import SINGLE_LABEL

_COLUMNS = 4
_INCHES = 2.2  # of an image


def show_batch(
    data: Any, *, count: int = 12, epoch: int = 0, class_names: Sequence[str] | None = None
) -> Figure:
    """Show the first images of an epoch as they are trained on, with their classes.

    Args:
        data: (x, y) arrays, a `keras_transfer.Loader`, whose augmentation is seen, or a `PyDataset`.
        count: how many images, at most.
        epoch: the epoch of the loader; another one has another order and another augmentation.
        class_names: by default those of the loader, or the numbers of the classes.

    Returns:
        A figure of the images. Labels in rows (of mixed images) are told as parts of classes.

    Raises:
        ValueError, TypeError: the data is of another kind or `count` no positive integer.

    Example:
        >>> import numpy as np, keras_transfer as kt
        >>> x = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), "uint8")
        >>> loader = kt.Loader((x, np.arange(8) % 2), augmentation="light", class_names=["ant", "bee"])
        >>> len(kt.plots.show_batch(loader, count=6).axes)
        6
    """
    loader = as_loader(data)
    count = min(checked_integer("count", count, 1), loader.num_samples)
    batches = [loader.batch(epoch, k) for k in range(math.ceil(count / loader.batch_size))]
    images, labels = (np.concatenate(parts)[:count] for parts in zip(*batches, strict=True))
    names = _names(loader.class_names if class_names is None else class_names)
    return _grid(images, [(_label(label, names), BLACK) for label in labels], names)


def show_predictions(
    model: keras.Model, data: Any, *, count: int = 12, class_names: Sequence[str] | None = None
) -> Figure:
    """Show images with their class, the one that a model predicts, and how probable it is.

    Args:
        model: a classifier that gives probabilities.
        data: (x, y) arrays, a `keras_transfer.Loader` or a `PyDataset`; augmentation is left out.
        count: how many images, at most; they are taken at equal distances.
        class_names: by default those of the model, of the loader, or numbers.

    Returns:
        A figure of the images. Above each stands what is predicted, and below that "is ..." in another
        colour where it is something else.

    Raises:
        ValueError, TypeError: the data is of another kind or doesn't fit the model.

    Example:
        >>> import numpy as np, keras_transfer as kt
        >>> x = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), "uint8")
        >>> model = kt.classifier("mobilenet", 2, image_size=32, weights=None)
        >>> len(kt.plots.show_predictions(model, (x, np.arange(8) % 2), count=4).axes)
        4
    """
    loader = checked_loader(data, model, 32, "data")
    count = min(checked_integer("count", count, 1), loader.num_samples)
    rows = np.linspace(0, loader.num_samples - 1, count).astype(int)
    return _predictions(model, loader.subset(rows), class_names)


def top_losses(
    model: keras.Model, data: Any, *, count: int = 12, class_names: Sequence[str] | None = None
) -> Figure:
    """Show the images whose true class a model holds for least probable, the worst first.

    Args:
        model: a classifier that gives probabilities.
        data: (x, y) arrays, a `keras_transfer.Loader` or a `PyDataset`; augmentation is left out.
        count: how many images, at most.
        class_names: by default those of the model, of the loader, or numbers.

    Returns:
        A figure as that of `show_predictions`, with the loss.

    Raises:
        ValueError, TypeError: the data is of another kind or doesn't fit the model.

    Example:
        >>> import numpy as np, keras_transfer as kt
        >>> x = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), "uint8")
        >>> model = kt.classifier("mobilenet", 2, image_size=32, weights=None)
        >>> len(kt.plots.top_losses(model, (x, np.arange(8) % 2), count=4).axes)
        4
    """
    loader = checked_loader(data, model, 32, "data")
    count = min(checked_integer("count", count, 1), loader.num_samples)
    y = SINGLE_LABEL.targets(loader.known_labels())
    found = SINGLE_LABEL.losses(predictions(model, loader, SILENT), y)
    worst = np.argsort(-found, kind="stable")[:count]
    return _predictions(model, loader.subset(worst), class_names, found[worst])


def displayed(image: np.ndarray) -> np.ndarray:
    """Return an image of any values as one to be shown: uint8 of shape (height, width, 3).

    Values up to 1, or from below 0 on, are stretched to 0 to 255, as they are scaled already.
    """
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8:
        pixels = pixels.astype("float64")
        low, high = pixels.min(), pixels.max()
        if low < 0 < high - low:
            pixels = 255.0 * (pixels - low) / (high - low)
        elif high <= 1:
            pixels = 255.0 * pixels
        pixels = np.clip(np.rint(pixels), 0, 255).astype("uint8")
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3)) if pixels.shape[2] == 1 else pixels[..., :3]


def _predictions(
    model: keras.Model, loader: Loader, names: Sequence[str] | None, found: np.ndarray | None = None
) -> Figure:
    drawn = _names(names or class_names(model) or loader.class_names)
    images, _ = loader.samples(0, loader.num_samples)
    titles = []
    probabilities = predictions(model, loader, SILENT)
    y = SINGLE_LABEL.targets(loader.known_labels())
    for k, (p, label) in enumerate(zip(probabilities, y, strict=True)):
        said = int(p.argmax())
        text = f"{_name(said, drawn)} {p[said]:.0%}"
        if said != label:
            text += f"\nis {_name(int(label), drawn)} {p[label]:.0%}"
        if found is not None:
            text += f"\nloss {found[k]:.2f}"
        titles.append((text, BLUE if said == label else VERMILION))
    return _grid(images, titles, drawn)


def _names(names: Sequence[str] | None) -> Lettering | None:
    return None if names is None else lettering(names)


def _grid(images: np.ndarray, titles: list[tuple[str, str]], names: Lettering | None) -> Figure:
    columns = min(_COLUMNS, len(images))
    rows = math.ceil(len(images) / columns)
    lines = max(title.count("\n") for title, _ in titles) + 1
    size = columns * _INCHES, rows * (_INCHES + 0.17 * lines)
    figure = Figure(figsize=size, layout="constrained")
    panels: Any = figure.subplots(rows, columns, squeeze=False).flat
    for k, axes in enumerate(panels):
        if k >= len(images):
            axes.remove()
            continue
        axes.imshow(displayed(images[k]))
        axes.set_axis_off()
        title, color = titles[k]
        family = None if names is None else names.family
        axes.set_title(title, fontsize=8, color=color, fontfamily=family, parse_math=False)
    return figure


def _label(label: Any, names: Lettering | None) -> str:
    if np.ndim(label) == 0:
        return _name(int(label), names)
    parts = [(part, index) for index, part in enumerate(np.asarray(label)) if part > 0]
    if len(parts) == 1:
        return _name(parts[0][1], names)
    return ", ".join(f"{_name(index, names)} {part:.0%}" for part, index in sorted(parts, reverse=True))


def _name(index: int, names: Lettering | None) -> str:
    if names is None:
        return str(index)
    if not 0 <= index < len(names.labels):
        raise ValueError(
            "class_names must have a name for each class. Received: "
            f"{len(names.labels)} names and class {index}"
        )
    return names.labels[index]
