"""What `fit` is given: loaders made of arrays, and data checked against the model."""

from typing import Any

import keras

from keras_transfer.data.loader import Loader


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
