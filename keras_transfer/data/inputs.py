"""What data may be wherever a function takes it, and data checked against the model.

That is (x, y) arrays, a `Loader` or a Keras `PyDataset`; where `fit` trains, also whatever it takes.
"""

import numbers
import os
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_transfer.data.batches import check_labels
from keras_transfer.data.carried_rules import check_rules
from keras_transfer.data.layout import composed
from keras_transfer.data.loader import Loader
from keras_transfer.data.ranges import check_range
from keras_transfer.data.sources import DatasetSource, refuse_images_alone
from keras_transfer.layers.about import class_names
from keras_transfer.layers.input_range import input_range
from keras_transfer.layers.task import task_of
from keras_transfer.tasks.multi_label import MULTI_LABEL
from keras_transfer.tasks.single_label import SINGLE_LABEL
from keras_transfer.tasks.task import Task

_LOOKED_AT = 64  # images of an array


def checked_data(
    data: Any,
    model: keras.Model,
    *,
    batch_size: int,
    seed: int,
    argument: str = "train",
    names: list[str] | None = None,
    task: Task | None = SINGLE_LABEL,
) -> Any:
    """Return what `fit` shall be given for `data`, checked against `model`.

    Args:
        data: (x, y) arrays, a `Loader`, or anything else that `fit` takes.
        model: the classifier.
        batch_size: for arrays.
        seed: for arrays.
        argument: "train" or "validation", for messages. Arrays for validation stay in order.
        names: the names of the classes in their order, where they are known.
        task: what kind of labels there must be; None: rows may be anything. Of labels that come only
            with their images, those of the first batch are looked at.

    Returns:
        A `Loader` of this run's own, so that the given one keeps its epoch; other data unchanged.

    Raises:
        TypeError: an array without labels, or what `fit` can't take either.
        ValueError: images of another shape than the model's input, labels outside its classes or of
            another task, or classes with other names.
    """
    _check_kind(data, argument)
    if is_arrays(data, argument):
        data = Loader(data, batch_size, shuffle=argument == "train", seed=seed)
    if not isinstance(data, Loader):
        if isinstance(data, keras.utils.PyDataset):
            _check_first_batch(data, model, argument, task)
        return data
    classes = model.output_shape[-1]
    if names and data.class_names and not same_names(names, data.class_names):
        raise ValueError(
            f"{argument} must have the same classes in the same order, {names}. "
            f"Received: classes {data.class_names}"
        )
    if data.num_classes is not None and data.num_classes > classes:
        raise ValueError(
            f"model must have an output for each of the {data.num_classes} classes of {argument}. "
            f"Received: a model with {classes} outputs"
        )
    loader = _of_task(data, task, argument).replace(num_classes=classes)  # which checks the labels
    labels = check_images(loader, model, argument)
    if task is not None:
        task.check_rows(labels if loader.labels is None else loader.labels, argument)
    return loader


def _of_task(loader: Loader, task: Task | None, argument: str) -> Loader:
    """Return a loader of labels of a task, where it may be that its rows are such."""
    if task is SINGLE_LABEL and loader.multi_label:
        raise ValueError(
            f"{argument} must have one class an image, as the model ends in no sigmoid for each class; "
            "kt.classifier(..., task='multi-label') or kt.replace_head(..., task='multi-label') makes "
            f"one that does. Received: {argument}, a Loader with multi_label=True"
        )
    if task is not MULTI_LABEL or loader.multi_label:
        return loader
    if loader.labels is None or loader.labels.ndim != 2:
        raise ValueError(
            f"{argument} must have several labels an image, as the model ends in a sigmoid for each "
            "class: rows of 0 and 1, and kt.Loader(..., multi_label=True). For one class an image, "
            "kt.replace_head(..., task='single-label') gives a softmax. "
            f"Received: {argument} with one class an image"
        )
    MULTI_LABEL.check_rows(loader.labels, argument)
    return loader.replace(multi_label=True)


def refuse_several(model: keras.Model, data: Any, argument: str) -> None:
    """Raise a `ValueError` if a model or data is for several labels an image, which can't be done yet.

    Args:
        model: the model.
        data: what users give, of any kind.
        argument: what `data` is called in messages.
    """
    of_data = isinstance(data, Loader) and data.multi_label
    if of_data or task_of(model) is MULTI_LABEL:
        received = f"{argument} with multi_label=True" if of_data else f"{model.name!r}, with sigmoids"
        raise ValueError(
            "model and data must be for one class an image, as this knows no several labels; these "
            "do: kt.fit_linear_head, kt.fine_tune, kt.calibration.find_thresholds and "
            f"kt.evaluation.evaluate. Received: {received}"
        )


def same_names(names: Sequence[str], others: Sequence[str]) -> bool:
    """Whether names are the same, however their accents are written."""
    return [*map(composed, names)] == [*map(composed, others)]


def _check_kind(data: Any, argument: str) -> None:
    """Raise a `TypeError` for what has no labels, or is no data at all."""
    refuse_images_alone(data, argument)
    if data is None or isinstance(data, (str, os.PathLike, list, dict, numbers.Number)):
        raise TypeError(
            f"{argument} must be (x, y) arrays, a kt.Loader, or other data with labels that Keras' fit "
            "takes, such as a keras.utils.PyDataset; kt.data.from_directory(...) reads a folder, and "
            "kt.Loader(...) takes a list of (image, label) pairs. "
            f"Received: {argument} of type {type(data).__name__}"
        )


def _check_first_batch(
    data: keras.utils.PyDataset, model: keras.Model, argument: str, task: Task | None
) -> None:
    """Check the labels of the first batch, where it has such, and the values of its images."""
    batch = data[0]
    if not (isinstance(batch, (tuple, list)) and len(batch) > 1 and hasattr(batch[1], "shape")):
        return
    check_range(batch[0], model, argument)
    if task is not None:
        labels = keras.ops.convert_to_numpy(batch[1])
        labels = labels[:, 0] if labels.shape[1:] == (1,) else labels
        check_labels(labels, model.output_shape[-1])
        task.check_rows(labels, argument)


def check_images(loader: Loader, model: keras.Model, argument: str) -> np.ndarray:
    """Raise a `ValueError` if the images of a loader have another shape than the input of `model`.

    `check_range` tells what is odd about their values, and `check_rules` about how they were read.

    Returns:
        The labels of a batch, which had to be read.
    """
    images, labels = loader.batch(0, 0)
    wanted, found = model.input_shape[1:], images.shape[1:]
    if len(wanted) != len(found) or any(w not in (None, f) for w, f in zip(wanted, found, strict=True)):
        hint = "" if wanted[-1:] != found[-1:] else "; pass image_size=... to the Loader to resize them"
        raise ValueError(
            f"{argument} must have images of shape {wanted}, the model's input{hint}. "
            f"Received: images of shape {found}"
        )
    check_rules(loader, model, argument)
    if loader.value_range != "as is":
        check_range(images, model, argument, loader.first_time)
    return labels


def check_values(data: Any, model: keras.Model, argument: str) -> None:
    """Warn where images have not the values that `model` takes, as far as both tell.

    Args:
        data: an array of images, a `Loader` or a `PyDataset`. Others aren't looked at, as that may
            change them.
        model: the model.
        argument: what `data` is called in messages.

    Raises:
        ValueError: they are integers beyond 255, and the model takes 0 to 255.
    """
    if input_range(model) is None:
        return
    if isinstance(data, Loader):
        if data.value_range != "as is":
            check_range(data.batch(0, 0)[0], model, argument, data.first_time)
    elif isinstance(data, keras.utils.PyDataset):
        _check_first_batch(data, model, argument, None)
    elif hasattr(data, "shape"):
        check_range(data[:_LOOKED_AT], model, argument)


def is_arrays(data: Any, argument: str = "data") -> bool:
    """Whether data is arrays (x, y); a tuple of another length is a `ValueError`."""
    if isinstance(data, tuple) and len(data) != 2:
        raise ValueError(
            f"{argument} must be (x, y), if it is a tuple. Received: {argument}, a tuple of {len(data)}"
        )
    return isinstance(data, tuple)


def as_loader(
    data: Any, batch_size: int = 32, argument: str = "data", *, shuffle: bool = False
) -> Loader:
    """Return data as a `Loader`, of which each sample can be asked for.

    Args:
        data: (x, y) arrays, a `Loader` or a `PyDataset`.
        batch_size: for arrays.
        argument: what `data` is called in messages.
        shuffle: for arrays.

    Returns:
        A `Loader` itself; of a `PyDataset` one with its batch size, in the order of its batches.

    Raises:
        TypeError: data of another kind.
        ValueError: arrays that don't fit each other; batches of a `PyDataset` that are no data set.
    """
    if isinstance(data, Loader):
        return data
    if is_arrays(data, argument):
        return Loader(data, batch_size, shuffle=shuffle)
    if isinstance(data, keras.utils.PyDataset):
        batches = DatasetSource(data)
        return Loader(batches, batches.batch_size, shuffle=False)
    hint = "labels are missing: pass (x, y); " if hasattr(data, "shape") else ""
    raise TypeError(
        f"{argument} must be (x, y) arrays, a kt.Loader or a keras.utils.PyDataset, of which each "
        f"sample can be asked for; {hint}kt.Loader(...) also takes any sequence of (image, label) "
        "pairs. "
        f"Received: {argument} of type {type(data).__name__}"
    )


def in_order(data: Any, batch_size: int = 32, argument: str = "data") -> Loader:
    """Return a loader as `as_loader` does, in the order of its samples and without augmentation."""
    return as_loader(data, batch_size, argument).replace(augmentation=None, shuffle=False)


def checked_loader(
    data: Any,
    model: keras.Model,
    batch_size: int,
    argument: str,
    *,
    classes: bool = True,
    several: bool = False,
) -> Loader:
    """Return a loader as `in_order` does, checked against a model.

    Args:
        data: (x, y) arrays, a `Loader` or a `PyDataset`.
        model: the classifier whose input and classes the data must fit.
        batch_size: for arrays.
        argument: what `data` is called in messages.
        classes: whether `model` has an output for each class; its labels are not looked at otherwise.
        several: whether an image may have several labels, where the model ends in sigmoids.

    Raises:
        TypeError: data of another kind.
        ValueError: images of another shape than the model's input, or labels outside its classes or of
            another task.
    """
    if not several:
        refuse_several(model, data, argument)
    loader = in_order(data, batch_size, argument)
    if classes:
        return checked_data(
            loader,
            model,
            batch_size=batch_size,
            seed=0,
            argument=argument,
            names=class_names(model),
            task=task_of(model),
        )
    check_images(loader, model, argument)
    return loader
