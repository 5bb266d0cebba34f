"""What `fit` is given: loaders made of arrays, and data checked against the model."""

from typing import Any

import keras
import numpy as np

from keras_transfer.data.loader import Loader
from keras_transfer.layers.about import class_names


def training_data(
    data: Any,
    model: keras.Model,
    *,
    batch_size: int,
    seed: int,
    argument: str = "train",
    names: list[str] | None = None,
) -> Any:
    """Return what `fit` shall be given for `data`, checked against `model`.

    Args:
        data: (x, y) arrays, a `Loader`, or anything else that `fit` takes.
        model: the classifier.
        batch_size: for arrays.
        seed: for arrays.
        argument: "train" or "validation", for messages. Arrays for validation stay in order.
        names: the names of the classes in their order, where they are known.

    Returns:
        A `Loader` of this run's own, so that the given one keeps its epoch; other data unchanged.

    Raises:
        ValueError: images of another shape than the model's input, labels outside its classes, or
            classes with other names.
    """
    if isinstance(data, tuple):
        if len(data) != 2:
            raise ValueError(
                f"{argument} must be a tuple (x, y), a Loader, or what Keras' fit takes. "
                f"Received: a tuple of {len(data)}"
            )
        data = Loader(data, batch_size, shuffle=argument == "train", seed=seed)
    if not isinstance(data, Loader):
        return data
    classes = model.output_shape[-1]
    if names and data.class_names and names != data.class_names:
        raise ValueError(
            f"{argument} must have the same classes in the same order, {names}. "
            f"Received: classes {data.class_names}"
        )
    if data.num_classes is not None and data.num_classes > classes:
        raise ValueError(
            f"model must have an output for each of the {data.num_classes} classes of {argument}. "
            f"Received: a model with {classes} outputs"
        )
    loader = data.replace(num_classes=classes)  # which checks the labels
    check_images(loader, model, argument)
    return loader


def check_images(loader: Loader, model: keras.Model, argument: str) -> None:
    """Raise a `ValueError` if the images of a loader have another shape than the input of `model`."""
    wanted, found = model.input_shape[1:], loader.batch(0, 0)[0].shape[1:]
    if len(wanted) != len(found) or any(w not in (None, f) for w, f in zip(wanted, found, strict=True)):
        hint = "" if wanted[-1:] != found[-1:] else "; pass image_size=... to the Loader to resize them"
        raise ValueError(
            f"{argument} must have images of shape {wanted}, the model's input{hint}. "
            f"Received: images of shape {found}"
        )


def as_loader(data: Any, batch_size: int, argument: str) -> Loader:
    """Return a loader of `data` in the order of its source, without augmentation.

    Args:
        data: (x, y) arrays or a `Loader`.
        batch_size: for arrays.
        argument: what `data` is called in messages.

    Raises:
        TypeError: data of another kind.
    """
    if isinstance(data, tuple) and len(data) == 2:
        return Loader(data, batch_size, shuffle=False)
    if not isinstance(data, Loader):
        raise TypeError(
            f"{argument} must be (x, y) arrays or a kt.Loader, which also takes any sequence of (image, "
            f"label) pairs. Received: {argument} of type {type(data).__name__}"
        )
    return data.replace(augmentation=None, shuffle=False)


def checked_loader(
    data: Any, model: keras.Model, batch_size: int, argument: str, *, classes: bool = True
) -> Loader:
    """Return a loader as `as_loader` does, checked against a model.

    Args:
        data: (x, y) arrays or a `Loader`.
        model: the classifier whose input and classes the data must fit.
        batch_size: for arrays.
        argument: what `data` is called in messages.
        classes: whether `model` has an output for each class; its labels are not looked at otherwise.

    Raises:
        TypeError: data of another kind.
        ValueError: images of another shape than the model's input, or labels outside its classes.
    """
    loader = as_loader(data, batch_size, argument)
    if classes:
        return training_data(
            loader, model, batch_size=batch_size, seed=0, argument=argument, names=class_names(model)
        )
    check_images(loader, model, argument)
    return loader


def class_indices(labels: np.ndarray) -> np.ndarray:
    """Return labels, integers or one-hot rows, as integers."""
    if labels.ndim == 1:
        return labels.astype("int64")
    wrong = np.flatnonzero(~(np.isin(labels, (0, 1)).all(axis=1) & (labels.sum(axis=1) == 1)))
    if wrong.size:
        raise ValueError(
            "labels must be integers or one-hot rows, of one 1 and zeros. "
            f"Received: {labels[wrong[0]]} for sample {wrong[0]}"
        )
    return labels.argmax(axis=1)
