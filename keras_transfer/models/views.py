"""A classifier that looks at several views of an image, and takes the mean of what it makes of them."""

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import keras

from keras_transfer._lib.checks import checked_image_size
from keras_transfer._lib.keras_private.graph import call_arguments, graph_nodes
from keras_transfer.layers import carried
from keras_transfer.layers.about import hand_on_new
from keras_transfer.layers.graph import Call, is_graph, nested_models, up_to, walk
from keras_transfer.layers.guard import guard
from keras_transfer.layers.head import ended, free_name, single_dense

_SHOWN = 300  # characters of an error of Keras


def multi_view(
    model: keras.Model, *, flip: bool = True, sizes: Sequence[int | tuple[int, int]] = ()
) -> keras.Model:
    """Return a classifier that takes the mean of several views of each image.

    The views are the image and its mirror image, as they are and resized to each of `sizes`. The network
    before the last layer of `model` makes a vector of each view, and the last layer is given the mean of
    the vectors. As that layer is linear, this is the mean of the logits of all views. The views are part
    of the model: where it is trained, fitted, calibrated, saved or exported, all of them count.
    A prediction costs as many passes as there are views, one resized to s pixels instead of t costing
    (s / t)**2 of one. What looks at each depth of a network, such as `advise`, sees of this model the
    mean of the views alone: ask it of `model`.

    Args:
        model: a functional or sequential classifier of images whose head has one `Dense` layer, with a
            softmax or logits at its end, such as `keras_transfer.classifier` makes. It stays as it is.
        flip: whether mirror images, left for right, are among the views. Where left and right mean
            something, as in writing, they should not be.
        sizes: heights and widths of further views in pixels, one number for both. The image that `model`
            takes is resized bilinearly, antialiased where it shrinks. Best is a model that takes
            the largest of the sizes, so that views only shrink. Most networks halve their maps five
            times, and want multiples of 32. Of the formats of `export`, "tf_saved_model" and "torch"
            have such views, and from torch "openvino".

    Returns:
        A functional model, not compiled, of stock Keras layers. It shares the layers of `model`, so that
        training one trains the other, and which of them train. It has the class names of `model` and all
        else that this carries, but not the calibration, which is that of one view. Dropout before the
        last layer acts on the mean.

    Raises:
        ValueError: the head is another one, an argument has no sensible meaning, the model has views
            already, or it can't take images of other sizes.
        TypeError: `model` is no model, or an argument is of another kind.

    Example:
        >>> import keras, numpy as np, keras_transfer as kt
        >>> model = kt.classifier("mobilenet", 2, image_size=64, weights=None)
        >>> four = kt.multi_view(model, sizes=(32,))
        >>> [layer.name for layer in four.layers][-4:]
        ['mobilenet_classifier_features', 'mean_of_views', 'predictions', 'softmax']
        >>> x = np.random.default_rng(0).uniform(0, 255, (1, 64, 64, 3))
        >>> found, mirrored = (four.predict(each, verbose=0) for each in (x, x[:, :, ::-1]))
        >>> bool(np.allclose(found, mirrored, atol=1e-5))
        True

    References:
        Krizhevsky, Sutskever and Hinton, "ImageNet Classification with Deep Convolutional Neural
        Networks", NIPS 2012 (the mean over crops and their mirror images); Simonyan and Zisserman, "Very
        Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015 (several sizes).
    """
    dense = single_dense(model)
    image = model.inputs[0]
    _check_views(model, flip, sizes)
    others = _checked_sizes(sizes, image)
    dropout = _dropout_before(model, dense)
    network = up_to(model, [*dropout, dense][0])
    if others:
        network = _of_any_size(network, others, model)

    inputs = keras.Input(batch_shape=image.shape, dtype=image.dtype, name=image.name)
    taken = {layer.name for layer in (*dropout, dense)} | {inputs.name, network.name}
    views = [inputs]
    for height, width in others:
        name = free_name(f"resized_{height}x{width}", taken)
        dtype = dense.variable_dtype  # pixels have no room in 16 bits
        resize = keras.layers.Resizing(height, width, antialias=True, name=name, dtype=dtype)
        # Keras takes True by default, here and then for all layers after it, where the model is called
        # without saying so, as in an export: batch norm would take the statistics of the batch.
        views.append(resize(inputs, training=False))
    if flip:
        views += list(map(mirror_image, views))
    name = free_name("mean_of_views", taken)
    x = keras.layers.Average(name=name, dtype=dense.variable_dtype)([network(view) for view in views])
    for layer in (*dropout, dense):
        x = layer(x)
    if dense.activation is not keras.activations.softmax:
        x = ended(x, model, dense, {*taken, name})
    made = keras.Model(inputs, x, name=f"{model.name}_views")
    carried.hand_on(model, made)
    hand_on_new(model, made)
    guard(made)
    guard(model)  # which shares the layers
    return made


def mirror_image(image: keras.KerasTensor) -> keras.KerasTensor:
    """Return images or feature maps of a graph with left and right exchanged."""
    return keras.ops.flip(image, axis=_rows_and_columns()[1])


def of_mirror_images(model: keras.Model) -> keras.Model:
    """Return a model that shares the layers of another, and gives what that gives for mirror images."""
    image = keras.Input(batch_shape=model.inputs[0].shape, dtype=model.inputs[0].dtype)
    return keras.Model(image, model(mirror_image(image)), name=f"{model.name}_of_mirror_images")


def _check_views(model: keras.Model, flip: Any, sizes: Any) -> None:
    """Raise unless a model takes images, one view so far, and there is another one to make."""
    if not isinstance(flip, bool):
        raise TypeError(f"flip must be True or False. Received: flip={flip!r}")
    if isinstance(sizes, str) or not isinstance(sizes, Sequence):
        raise TypeError(
            "sizes must be a sequence of pixels or (height, width), such as (288,). "
            f"Received: sizes={sizes!r}"
        )
    if not flip and not sizes:
        raise ValueError(
            "flip must be True, or sizes not empty, as there is one view otherwise. "
            "Received: flip=False, sizes=()"
        )
    if len(model.inputs[0].shape) != 4:
        raise ValueError(
            "model must take images (batch, height, width, channels). "
            f"Received: model {model.name!r} with input {model.inputs[0].shape}"
        )
    means = [name for graph in nested_models(model) for name in _means_of_views(graph)]
    if means:
        raise ValueError(
            "model must not have several views already; make them all at once, of the model that these "
            f"were made of. Received: model {model.name!r} with {means[0]!r}"
        )


def _means_of_views(graph: keras.Model) -> list[str]:
    """Return the names of the layers that take the mean of several calls of one nested model."""
    found = []
    for node in graph_nodes(graph) or []:
        parents = [parent.operation for parent in node.parent_nodes]
        if isinstance(node.operation, keras.layers.Average) and isinstance(parents[0], keras.Model):
            found += [node.operation.name] if len(set(map(id, parents))) < len(parents) else []
    return found


def _rows_and_columns() -> tuple[int, int]:
    """Return which axes of images are their rows and their columns."""
    return (1, 2) if keras.config.image_data_format() == "channels_last" else (2, 3)


def _checked_sizes(sizes: Sequence[Any], image: keras.KerasTensor) -> list[tuple[int, int]]:
    """Return (height, width) of each size, or raise if one is none, or no new one."""
    own = tuple(image.shape[axis] for axis in _rows_and_columns())
    found: list[tuple[int, int]] = []
    for index, each in enumerate(sizes):
        size = checked_image_size(each, f"sizes[{index}]")
        if size == own or size in found:
            raise ValueError(
                "sizes must be others than that of the images that the model takes, which are a view in "
                f"any case, and each another one. Received: sizes={sizes!r}, and images of {own} pixels"
            )
        found.append(size)
    return found


def _dropout_before(model: keras.Model, dense: keras.layers.Dense) -> list[keras.Layer]:
    """Return the dropout that a vector goes through on its way to the last layer."""
    calls = list(walk(model))
    before = calls[: [call.operation for call in calls].index(dense)]

    def is_dropout(call: Call) -> bool:
        always = call_arguments(call.node)[1].get("training")
        return call.on_trunk and type(call.operation) is keras.layers.Dropout and not always

    return [call.operation for call in takewhile(is_dropout, reversed(before))][::-1]


def _of_any_size(
    network: keras.Model, sizes: Sequence[tuple[int, int]], model: keras.Model
) -> keras.Model:
    """Return the same layers as a network that takes images of each of the sizes, among others.

    Raises:
        ValueError: they take images of one size only.
    """
    try:
        free = _called_anew(network)
        if free.output_shape[-1] is None:
            (last,) = (call.operation.name for call in walk(free) if call.last)
            raise ValueError(f"layer {last!r} gives longer vectors for larger images")
        for size in sizes:
            _try_out(free, size)
    except Exception as error:  # of whatever kind the layer raises
        raise ValueError(
            "sizes need layers that take images of any size. What flattens a feature map, or adds a "
            "learned position to each of its places, has weights for one size: put a head that pools on "
            "the network, with kt.replace_head(model, num_classes, part='head'), or leave sizes out. "
            f"Received: sizes={list(sizes)} for model {model.name!r}, where {str(error)[:_SHOWN]}"
        ) from error
    return free


def _called_anew(network: keras.Model) -> keras.Model:
    """Return a model of the same layers, called on inputs whose height and width are open."""

    def opened(tensor: keras.KerasTensor) -> keras.KerasTensor:
        axes = _rows_and_columns() if len(tensor.shape) == 4 else range(1, len(tensor.shape) - 1)
        shape = [None if axis in axes else size for axis, size in enumerate(tensor.shape)]
        return keras.Input(batch_shape=shape, dtype=tensor.dtype, name=tensor.name)

    def same(operation: keras.Operation) -> keras.Operation:
        return _called_anew(operation) if is_graph(operation) else operation

    def called(operation: keras.Operation, *arguments: Any, **named: Any) -> Any:
        try:
            return operation(*arguments, **named)
        except Exception as error:
            raise ValueError(f"layer {operation.name!r} fails: {error}") from error

    if isinstance(network, keras.Sequential):  # which is not told how to call its layers
        network = keras.Model(network.inputs[0], network.outputs[0], name=network.name)
    inputs = keras.tree.map_structure(opened, network.input)
    return keras.models.clone_model(
        network, input_tensors=inputs, clone_function=same, call_function=called
    )


def _try_out(network: keras.Model, size: tuple[int, int]) -> None:
    """Raise if a network can't take images of a size, which its layers may say only when called."""
    shape = [1, *network.inputs[0].shape[1:]]
    for axis, pixels in zip(_rows_and_columns(), size, strict=True):
        shape[axis] = pixels
    # Not what the network says of itself: its shapes may be right where its operations fail.
    keras.Operation.compute_output_spec(network, keras.KerasTensor(shape, network.inputs[0].dtype))
