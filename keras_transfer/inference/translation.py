"""The layers of Keras as steps of ONNX, and a model as all of its steps.

A layer is known by its class itself: what is derived from it may compute something else. Feature maps
are kept as (batch, channels, rows, columns) from the first convolution on, and turned back where a layer
asks for it.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_transfer._lib.keras_private.graph import call_arguments, graph_nodes
from keras_transfer.inference.folded import norm_as_numbers, numbers
from keras_transfer.inference.operations import OPERATIONS
from keras_transfer.inference.steps import Steps, UnknownLayerError, Value
from keras_transfer.layers.graph import is_graph

_Translate = Callable[[Steps, Any, list[Value]], Value]
_layers: dict[str, _Translate] = {}
_FIRST = {0: 0, 1: 2, 2: 3, 3: 1}  # where an axis of Keras' feature maps is, with the channels first
_TRAINING_IS_NOTHING = keras.layers.Resizing  # which Keras calls with training=True by default
_SIXTH = float(np.float32(1 / 6))
# Operations and merging layers of Keras by what ONNX has for them.
_OF_TWO = {
    "Add": "Add",
    "Subtract": "Sub",
    "Multiply": "Mul",
    "Divide": "Div",
    "TrueDivide": "Div",
    "Maximum": "Max",
    "Minimum": "Min",
}
# Operations that are activations, too.
_SIMPLE = {"Relu": "relu", "Relu6": "relu6", "Sigmoid": "sigmoid", "Silu": "silu", "Tanh": "tanh"}


def translated(model: keras.Model) -> Steps:
    """Return a model with one input, in inference mode, as steps.

    Raises:
        UnknownLayerError: a layer has no translation, or doesn't compute in float32.
    """
    if graph_nodes(model) is None:
        raise UnknownLayerError("it has no graph of layers")
    if len(model.inputs) != 1 or None in model.inputs[0].shape[1:]:
        raise UnknownLayerError("the network has several inputs, or one of no fixed size")
    steps = Steps(tuple(model.inputs[0].shape[1:]))
    image = Value(steps.input, tuple(model.inputs[0].shape))
    ends = _walked(steps, model, [image])
    steps.outputs = [steps.channels_last(end) for end in ends]
    return steps


def known(*names: str) -> Callable[[_Translate], _Translate]:
    """Enter a translation for classes of Keras by their names in the modules of Keras."""

    def enter(function: _Translate) -> _Translate:
        _layers.update(dict.fromkeys(names, function))
        return function

    return enter


def _walked(steps: Steps, model: keras.Model, given: list[Value]) -> list[Value]:
    """Add the steps of a model whose inputs are given, and return what it gives."""
    values = {id(tensor): value for tensor, value in zip(model.inputs, given, strict=True)}
    for node in graph_nodes(model) or []:
        operation = node.operation
        if isinstance(operation, keras.layers.InputLayer):
            continue
        arguments, named = call_arguments(node)
        if named.get("training") and not isinstance(operation, _TRAINING_IS_NOTHING):
            raise UnknownLayerError(f"layer {operation.name!r} is called with training=True")
        inputs = [values[id(tensor)] for tensor in node.input_tensors]
        if is_graph(operation):
            found = _walked(steps, operation, inputs)
        elif len(node.outputs) != 1:
            raise UnknownLayerError(f"layer {operation.name!r} gives several tensors")
        elif isinstance(operation, keras.Layer):
            found = [_layer(steps, operation, inputs)._replace(shape=_shape(node, values))]
        else:
            value = _operation(steps, operation, arguments, named, values)
            found = [value._replace(shape=_shape(node, values))]
        values.update(zip(map(id, node.outputs), found, strict=True))
    return [values[id(tensor)] for tensor in model.outputs]


def _shape(node: Any, values: dict[int, Value]) -> tuple[Any, ...]:
    """Return the shape of what a call gives, also inside a network for images of any size."""
    shape = tuple(node.outputs[0].shape)
    if None not in shape[1:]:
        return shape

    def sized(each: Any) -> Any:
        return keras.KerasTensor(values[id(each)].shape, each.dtype) if id(each) in values else each

    arguments, named = keras.tree.map_structure(sized, call_arguments(node))
    return tuple(node.operation.compute_output_spec(*arguments, **named).shape)


def _layer(steps: Steps, layer: keras.Layer, inputs: list[Value]) -> Value:
    kind = type(layer)
    translate = _layers.get(kind.__name__) if kind.__module__.startswith("keras.src.") else None
    if translate is None:
        raise UnknownLayerError(f"layer {layer.name!r} of class {kind.__name__} has no translation")
    if layer.compute_dtype != "float32" or layer.quantization_mode is not None:
        computes = layer.quantization_mode or layer.compute_dtype
        raise UnknownLayerError(f"layer {layer.name!r} computes in {computes}, not in float32")
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        raise UnknownLayerError(f"layer {layer.name!r} has its channels first")
    return translate(steps, layer, inputs)


def _operation(
    steps: Steps, operation: keras.Operation, arguments: Any, named: Any, values: dict[int, Value]
) -> Value:
    """Add an operation on tensors, such as a sum, and numbers."""
    kind = type(operation)
    refused = UnknownLayerError(
        f"operation {operation.name!r} of class {kind.__name__} has no translation"
    )
    if not kind.__module__.startswith("keras.src.ops.") or any(
        value is not None for value in named.values()
    ):
        raise refused
    if kind.__name__ in OPERATIONS:
        given = [values.get(id(each), each) for each in arguments]
        translation = OPERATIONS[kind.__name__](steps, operation, given)
        if translation is None:
            raise refused
        return translation
    if kind.__name__ in _SIMPLE and len(arguments) == 1:
        (value,) = (values[id(tensor)] for tensor in arguments)
        return value._replace(name=_ACTIVATIONS[_SIMPLE[kind.__name__]](steps, value.name))
    if kind.__name__ == "Flip" and len(arguments) == 1:
        (value,) = (values[id(tensor)] for tensor in arguments)
        if operation.axis not in (-3, -2, -1, 1, 2, 3) or len(value.shape) != 4:
            raise refused
        axis = operation.axis % 4
        order = np.arange(value.shape[axis])[::-1]
        flipped = steps.add("Gather", steps.channels_first(value), order, axis=_FIRST[axis])
        return Value(flipped, value.shape, False)
    if kind.__name__ == "Resize" and len(arguments) == 1:
        return _resized(steps, operation, values[id(arguments[0])], refused)
    if kind.__name__ not in _OF_TWO or len(arguments) != 2:
        raise refused
    found: list[Any] = []
    for each in arguments:
        if id(each) in values:
            found.append(values[id(each)])
        elif isinstance(each, (int, float)):
            found.append(np.float32(each))
        elif isinstance(each, np.ndarray) and each.dtype.kind == "f":
            found.append(each.astype("float32"))
        else:
            raise refused
    return _elementwise(steps, _OF_TWO[kind.__name__], found, refused)


def _resized(steps: Steps, operation: Any, value: Value, refused: UnknownLayerError) -> Value:
    """Add what `keras.ops.image.resize` does, if it is bilinear."""
    other = operation.crop_to_aspect_ratio or operation.pad_to_aspect_ratio
    last = operation.data_format == "channels_last" and len(value.shape) == 4
    if operation.interpolation != "bilinear" or other or not last:
        raise refused
    return _bilinear(steps, value, operation.size, operation.antialias)


def _bilinear(steps: Steps, value: Value, wanted: tuple[int, int], antialias: bool) -> Value:
    """Add bilinear interpolation, as products with a matrix for each side of the image.

    Where it shrinks without aliasing, what ONNX Runtime 1.32 gives for its own operation is off by 1e-3
    of the norm and more.
    """
    rows, columns = (
        _interpolation(size, side, antialias)
        for size, side in zip(value.shape[1:3], wanted, strict=True)
    )
    x = steps.add("MatMul", steps.channels_first(value), columns.T)
    return Value(steps.add("MatMul", rows, x), value.shape, False)


def _interpolation(size: int, wanted: int, antialias: bool) -> np.ndarray:
    """Return the matrix of shape (wanted, size) by which pixels in a row become others, linearly.

    Each is a mean of those around it, by a triangle that is as wide as a pixel of both, or, with
    `antialias`, as one of the larger.
    """
    centres = (np.arange(wanted) + 0.5) * size / wanted - 0.5
    reach = max(size / wanted, 1.0) if antialias else 1.0
    weights = np.maximum(0.0, 1.0 - np.abs(centres[:, None] - np.arange(size)) / reach)
    return weights / weights.sum(axis=1, keepdims=True)


def _elementwise(steps: Steps, op: str, given: list[Any], refused: UnknownLayerError) -> Value:
    """Add an operation of two tensors, or of a tensor and a number, or several in an array."""
    tensors = [each for each in given if isinstance(each, Value)]
    arrays = [each for each in given if isinstance(each, np.ndarray) and each.ndim]
    rank = len(tensors[0].shape)
    if any(len(each.shape) != rank for each in tensors) or any(each.ndim > rank for each in arrays):
        raise refused
    last = rank != 4 or bool(arrays) or all(each.channels_last for each in tensors)
    turn = steps.channels_last if last else steps.channels_first
    turned = [turn(each) if isinstance(each, Value) else each for each in given]
    return Value(steps.add(op, *turned), tensors[0].shape, last)


def _affine(steps: Steps, value: Value, scale: Any, shift: Any, channels: int) -> Value:
    """Add what multiplies each channel by a number and adds another."""
    both = [np.broadcast_to(np.asarray(each, "float64").ravel(), channels) for each in (scale, shift)]
    axis = -1 if value.channels_last else 1
    return value._replace(name=steps.add("Affine", value.name, *both, axis=axis))


def activated(steps: Steps, function: Any, value: Value, name: str) -> Value:
    """Add an activation function of Keras."""
    if function is keras.activations.softmax:
        return Value(steps.add("Softmax", steps.channels_last(value), axis=-1), value.shape)
    kind = getattr(function, "__name__", type(function).__name__)
    if function is not getattr(keras.activations, kind, None) or kind not in _ACTIVATIONS:
        raise UnknownLayerError(f"layer {name!r} has an activation, {kind}, that has no translation")
    return value._replace(name=_ACTIVATIONS[kind](steps, value.name))


def _clipped(steps: Steps, x: str, highest: float) -> str:
    return steps.add("Clip", x, np.float32(0), np.float32(highest))


_ACTIVATIONS: dict[str, Callable[[Steps, str], str]] = {
    "linear": lambda steps, x: x,
    "relu": lambda steps, x: steps.add("Relu", x),
    "relu6": lambda steps, x: _clipped(steps, x, 6.0),
    "sigmoid": lambda steps, x: steps.add("Sigmoid", x),
    "tanh": lambda steps, x: steps.add("Tanh", x),
    "silu": lambda steps, x: steps.add("Mul", x, steps.add("Sigmoid", x)),
    "gelu": lambda steps, x: steps.add("Gelu", x),
    "elu": lambda steps, x: steps.add("Elu", x),
    "hard_sigmoid": lambda steps, x: steps.add("HardSigmoid", x, alpha=_SIXTH, beta=0.5),
    "hard_silu": lambda steps, x: steps.add("HardSwish", x),
    "softplus": lambda steps, x: steps.add("Softplus", x),
}


@known("Activation")
def _activation(steps: Steps, layer: Any, inputs: list[Value]) -> Value:
    return activated(steps, layer.activation, inputs[0], layer.name)


@known("Softmax")
def _softmax(steps: Steps, layer: Any, inputs: list[Value]) -> Value:
    if layer.axis not in (-1, len(inputs[0].shape) - 1):
        raise UnknownLayerError(f"layer {layer.name!r} is a softmax over axis {layer.axis}")
    return activated(steps, keras.activations.softmax, inputs[0], layer.name)


@known("ReLU")
def _relu(steps: Steps, layer: Any, inputs: list[Value]) -> Value:
    (value,) = inputs
    if layer.threshold or (layer.negative_slope and layer.max_value is not None):
        raise UnknownLayerError(
            f"layer {layer.name!r} is a ReLU with a threshold, or with a slope and a maximum"
        )
    if layer.negative_slope:
        return value._replace(name=steps.add("LeakyRelu", value.name, alpha=float(layer.negative_slope)))
    if layer.max_value is None:
        return value._replace(name=steps.add("Relu", value.name))
    return value._replace(name=_clipped(steps, value.name, float(layer.max_value)))


@known("LeakyReLU")
def _leaky_relu(steps: Steps, layer: Any, inputs: list[Value]) -> Value:
    (value,) = inputs
    return value._replace(name=steps.add("LeakyRelu", value.name, alpha=float(layer.negative_slope)))


@known(
    "Identity",
    "Dropout",
    "SpatialDropout2D",
    "GaussianDropout",
    "GaussianNoise",
    "AlphaDropout",
    "ActivityRegularization",
    "StochasticDepth",
)
def _nothing(steps: Steps, layer: Any, inputs: list[Value]) -> Value:
    return inputs[0]


@known("Rescaling")
def _rescaling(steps: Steps, layer: Any, inputs: list[Value]) -> Value:
    channels = inputs[0].shape[-1]
    scale, offset = (np.asarray(each, "float64") for each in (layer.scale, layer.offset))
    if any(each.size not in (1, channels) for each in (scale, offset)):
        raise UnknownLayerError(f"layer {layer.name!r} has numbers for other axes than the last")
    return _affine(steps, inputs[0], scale, offset, channels)


@known("Normalization")
def _normalization(steps: Steps, layer: Any, inputs: list[Value]) -> Value:
    channels = inputs[0].shape[-1]
    if layer.invert or layer.mean is None:
        raise UnknownLayerError(f"layer {layer.name!r} is inverted, or not adapted")
    mean, variance = numbers(layer.mean), numbers(layer.variance)
    if any(
        each.size not in (1, channels) or each.shape[-1:] != (each.size,) for each in (mean, variance)
    ):
        raise UnknownLayerError(f"layer {layer.name!r} has numbers for other axes than the last")
    scale = 1.0 / np.maximum(np.sqrt(variance), keras.config.epsilon())
    return _affine(steps, inputs[0], scale, -mean * scale, channels)


@known("BatchNormalization")
def _batch_normalization(steps: Steps, layer: Any, inputs: list[Value]) -> Value:
    if layer.axis not in (-1, len(inputs[0].shape) - 1):
        raise UnknownLayerError(f"layer {layer.name!r} normalizes axis {layer.axis}")
    scale, shift = norm_as_numbers(layer)
    return _affine(steps, inputs[0], scale, shift, len(scale))


@known("LayerScale")
def _layer_scale(steps: Steps, layer: Any, inputs: list[Value]) -> Value:
    gamma = numbers(layer.gamma)
    return _affine(steps, inputs[0], gamma, 0.0, len(gamma))


@known("LayerNormalization")
def _layer_normalization(steps: Steps, layer: Any, inputs: list[Value]) -> Value:
    shape = inputs[0].shape
    axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    if axes not in ([-1], [len(shape) - 1]) or getattr(layer, "rms_scaling", False):
        raise UnknownLayerError(f"layer {layer.name!r} normalizes by axes {axes}, or without a mean")
    scale = numbers(layer.gamma) if layer.scale else np.ones(shape[-1])
    given = [scale, numbers(layer.beta)] if layer.center else [scale]
    x = steps.channels_last(inputs[0])
    found = steps.add("LayerNormalization", x, *given, axis=-1, epsilon=float(layer.epsilon))
    return Value(found, shape)


@known("Dense")
def _dense(steps: Steps, layer: Any, inputs: list[Value]) -> Value:
    shape, x = inputs[0].shape, steps.channels_last(inputs[0])
    kernel = numbers(layer.kernel)
    if len(shape) == 2:
        bias = numbers(layer.bias) if layer.use_bias else np.zeros(kernel.shape[1])
        found = steps.add("Gemm", x, kernel, bias)
    else:
        found = steps.add("MatMul", x, kernel)
        if layer.use_bias:
            found = steps.add("Add", found, numbers(layer.bias))
    return activated(steps, layer.activation, Value(found, shape), layer.name)


@known("Conv2D")
def _conv(steps: Steps, layer: Any, inputs: list[Value]) -> Value:
    kernel = numbers(layer.kernel).transpose(3, 2, 0, 1)
    bias = numbers(layer.bias) if layer.use_bias else None
    value = _convolved(steps, layer, inputs[0], kernel, bias, layer.groups)
    return activated(steps, layer.activation, value, layer.name)


@known("DepthwiseConv2D")
def _depthwise_conv(steps: Steps, layer: Any, inputs: list[Value]) -> Value:
    bias = numbers(layer.bias) if layer.use_bias else None
    kernel, groups = _by_channel(layer.kernel)
    value = _convolved(steps, layer, inputs[0], kernel, bias, groups)
    return activated(steps, layer.activation, value, layer.name)


@known("SeparableConv2D")
def _separable_conv(steps: Steps, layer: Any, inputs: list[Value]) -> Value:
    kernel, groups = _by_channel(layer.depthwise_kernel)
    middle = _convolved(steps, layer, inputs[0], kernel, None, groups)
    pointwise = numbers(layer.pointwise_kernel).transpose(3, 2, 0, 1)
    bias = numbers(layer.bias) if layer.use_bias else np.zeros(len(pointwise))
    value = middle._replace(name=steps.add("Conv", middle.name, pointwise, bias))
    return activated(steps, layer.activation, value, layer.name)


def _by_channel(variable: Any) -> tuple[np.ndarray, int]:
    """Return the kernel of a depthwise convolution as that of one in groups, and how many these are."""
    kernel = numbers(variable)
    rows, columns, channels, times = kernel.shape
    return kernel.reshape(rows, columns, channels * times).transpose(2, 0, 1)[:, None], channels


def _convolved(
    steps: Steps, layer: Any, value: Value, kernel: np.ndarray, bias: np.ndarray | None, groups: int
) -> Value:
    pads = _pads(layer, value, kernel.shape[2:], layer.dilation_rate)
    # A bias of zeros, so that what is folded has a place.
    given = kernel, np.zeros(len(kernel)) if bias is None else bias
    how = {"strides": list(layer.strides), "dilations": list(layer.dilation_rate), "pads": pads}
    found = steps.add("Conv", steps.channels_first(value), *given, group=groups, **how)
    return Value(found, value.shape, False)


def _pads(layer: Any, value: Value, kernel: Any, dilation: Any = (1, 1)) -> list[int]:
    """Return what is added above, left, below and right."""
    if layer.padding == "valid":
        return [0, 0, 0, 0]
    if layer.padding != "same":
        raise UnknownLayerError(f"layer {layer.name!r} has padding {layer.padding!r}")
    before, after = [], []
    for size, length, stride, apart in zip(
        value.shape[1:3], kernel, layer.strides, dilation, strict=True
    ):
        total = max((-(-size // stride) - 1) * stride + (length - 1) * apart + 1 - size, 0)
        before.append(total // 2)
        after.append(total - total // 2)
    return before + after


@known("MaxPooling2D", "AveragePooling2D")
def _pooling(steps: Steps, layer: Any, inputs: list[Value]) -> Value:
    op = "MaxPool" if type(layer) is keras.layers.MaxPooling2D else "AveragePool"
    how = {"kernel_shape": list(layer.pool_size), "strides": list(layer.strides)}
    how["pads"] = _pads(layer, inputs[0], layer.pool_size)
    return Value(steps.add(op, steps.channels_first(inputs[0]), **how), inputs[0].shape, False)


@known("GlobalAveragePooling2D", "GlobalMaxPooling2D")
def _global_pooling(steps: Steps, layer: Any, inputs: list[Value]) -> Value:
    (value,) = inputs
    mean = type(layer) is keras.layers.GlobalAveragePooling2D
    if value.channels_last:
        op, axes = "ReduceMean" if mean else "ReduceMax", np.array([1, 2])
        found = steps.add(op, value.name, axes, keepdims=int(layer.keepdims))
        return Value(found, value.shape)
    pooled = steps.add("GlobalAveragePool" if mean else "GlobalMaxPool", value.name)
    if layer.keepdims:
        return Value(pooled, value.shape, False)
    return Value(steps.add("Flatten", pooled, axis=1), value.shape)


@known("ZeroPadding2D")
def _zero_padding(steps: Steps, layer: Any, inputs: list[Value]) -> Value:
    (top, bottom), (left, right) = layer.padding
    pads = np.array([0, 0, top, left, 0, 0, bottom, right])
    return Value(steps.add("Pad", steps.channels_first(inputs[0]), pads), inputs[0].shape, False)


@known("ZeroPadding1D")
def _zero_padding_of_tokens(steps: Steps, layer: Any, inputs: list[Value]) -> Value:
    before, after = layer.padding
    pads = np.array([0, before, 0, 0, after, 0])
    return Value(steps.add("Pad", inputs[0].name, pads), inputs[0].shape)


@known("Cropping1D")
def _cropping_of_tokens(steps: Steps, layer: Any, inputs: list[Value]) -> Value:
    before, after = layer.cropping
    limits = np.array([before]), np.array([inputs[0].shape[1] - after]), np.array([1])
    return Value(steps.add("Slice", inputs[0].name, *limits), inputs[0].shape)


@known("GlobalAveragePooling1D", "GlobalMaxPooling1D")
def _pooling_of_tokens(steps: Steps, layer: Any, inputs: list[Value]) -> Value:
    op = "ReduceMean" if type(layer) is keras.layers.GlobalAveragePooling1D else "ReduceMax"
    found = steps.add(op, inputs[0].name, np.array([1]), keepdims=int(layer.keepdims))
    return Value(found, inputs[0].shape)


@known("Cropping2D")
def _cropping(steps: Steps, layer: Any, inputs: list[Value]) -> Value:
    (top, bottom), (left, right) = layer.cropping
    rows, columns = inputs[0].shape[1:3]
    limits = np.array([top, left]), np.array([rows - bottom, columns - right]), np.array([2, 3])
    found = steps.add("Slice", steps.channels_first(inputs[0]), *limits)
    return Value(found, inputs[0].shape, False)


@known("Resizing")
def _resizing(steps: Steps, layer: Any, inputs: list[Value]) -> Value:
    if layer.interpolation != "bilinear" or layer.crop_to_aspect_ratio or layer.pad_to_aspect_ratio:
        raise UnknownLayerError(f"layer {layer.name!r} resizes otherwise than bilinearly, or not all")
    return _bilinear(steps, inputs[0], (layer.height, layer.width), layer.antialias)


@known("Flatten")
def _flatten(steps: Steps, layer: Any, inputs: list[Value]) -> Value:
    return Value(steps.add("Flatten", steps.channels_last(inputs[0]), axis=1), inputs[0].shape)


@known("Reshape")
def _reshape(steps: Steps, layer: Any, inputs: list[Value]) -> Value:
    shape = layer.compute_output_shape(inputs[0].shape)
    sizes = np.array([0, *shape[1:]])  # 0: as many as there are
    return Value(steps.add("Reshape", steps.channels_last(inputs[0]), sizes), shape)


@known("Permute")
def _permute(steps: Steps, layer: Any, inputs: list[Value]) -> Value:
    order = (0, *layer.dims)
    return Value(steps.add("Transpose", steps.channels_last(inputs[0]), perm=order), inputs[0].shape)


@known("Concatenate")
def _concatenate(steps: Steps, layer: Any, inputs: list[Value]) -> Value:
    shape = inputs[0].shape
    axis = layer.axis % len(shape)
    if axis == 0:
        raise UnknownLayerError(f"layer {layer.name!r} joins samples")
    if len(shape) != 4 or all(each.channels_last for each in inputs):
        return Value(steps.add("Concat", *(each.name for each in inputs), axis=axis), shape)
    joined = steps.add("Concat", *map(steps.channels_first, inputs), axis=_FIRST[axis])
    return Value(joined, shape, False)


@known("Add", "Multiply", "Subtract", "Average", "Maximum", "Minimum")
def _merge(steps: Steps, layer: Any, inputs: list[Value]) -> Value:
    kind = type(layer).__name__
    op = _OF_TWO.get(kind, "Add")
    refused = UnknownLayerError(f"layer {layer.name!r} merges tensors with different numbers of axes")
    value = inputs[0]
    for other in inputs[1:]:
        value = _elementwise(steps, op, [value, other], refused)
    if kind == "Average":
        value = value._replace(name=steps.add("Mul", value.name, np.float32(1 / len(inputs))))
    return value
