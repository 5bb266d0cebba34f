"""A new head on a finished classifier."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_transfer._lib.checks import checked_integer, did_you_mean
from keras_transfer._lib.network import fetching
from keras_transfer.layers import about
from keras_transfer.layers.graph import check_graph, input_of, leaf_layers, walk
from keras_transfer.layers.guard import guard
from keras_transfer.layers.head import ended, endings, last_weighted, sigmoid, softmax
from keras_transfer.layers.selection import Selection, select
from keras_transfer.models.classifier import add_head
from keras_transfer.models.tokens import tokens_of
from keras_transfer.tasks.multi_label import MULTI_LABEL
from keras_transfer.tasks.named import TaskName, checked_task

_IMAGENET_CLASSES = 1000
# What may stand between the layer that gives the logits and the output, and is made anew: layers, and
# operations of the same names.
_ENDINGS = (
    "Activation",
    "Dropout",
    "Flatten",
    "GlobalAveragePooling2D",
    "Reshape",
    "Sigmoid",
    "Softmax",
    "Squeeze",
)


def replace_head(
    model: keras.Model,
    num_classes: int,
    *,
    task: TaskName | None = None,
    part: Selection = "output",
    pooling: str | None = None,
    hidden_units: Sequence[int] = (),
    dropout: float = 0.0,
    init_from: Mapping[int | str, int | str] | None = None,
    class_names: Sequence[str] | None = None,
    seed: int | None = None,
) -> keras.Model:
    """Return a classifier for other classes that shares the rest of `model`.

    A model that ended in a softmax ends in one (a layer of its own, for
    `keras_transfer.fine_tune` trains on logits), one that ended in logits in logits, and one with an
    independent sigmoid for each of several classes in such.

    Args:
        model: a classifier with one output: a `keras.applications` model with its top, or any
            functional or sequential one of your own, flat or nested. It stays as it is.
        num_classes: how many classes, at least 2.
        task: None: that of `model`, which ends as it did; or as in `keras_transfer.classifier`.
        part: what is replaced. "output": the last layer with weights only, so that VGG16, say, keeps
            its pretrained fc1 and fc2. "head": the whole classifier, from the pooling on (see
            `keras_transfer.layers.head.head_layers`). "from:<layer>": this layer and everything
            after it. Or whatever else `keras_transfer.unfreeze` takes as `layers`, if it reaches to the
            end.
        pooling: as in `keras_transfer.classifier`, if what is kept ends in a feature map or in tokens.
        hidden_units: as in `keras_transfer.classifier`.
        dropout: as in `keras_transfer.classifier`.
        init_from: {new class: class of `model`}, each an index or a name, such as {0: "hotdog"}: the
            new output begins with the old one's weights and bias for these classes. Names are those
            of `class_names` and of `keras_transfer.class_names(model)`, or ImageNet's for a model with
            1,000 outputs. Only for part="output" without `hidden_units`, as on other features these
            weights mean nothing.
        class_names: the new classes' names in the order of the labels.
        seed: seeds the initial weights of the new layers and their dropout.

    Returns:
        A functional model, not compiled. Its layers before the head are those of `model`, the same
        objects. Of the new ones `Phase(train="new")` knows that they are.

    Raises:
        ValueError: the model has no head that can be told, or several outputs, is subclassed or not
            built; a class in `init_from` doesn't exist; another argument has no sensible meaning.
        ConnectionError: ImageNet's class names are needed and could not be fetched.

    Example:
        >>> import keras, keras_transfer as kt
        >>> vgg = keras.applications.VGG16(weights=None, input_shape=(32, 32, 3))
        >>> flowers = kt.replace_head(vgg, 102)
        >>> [layer.name for layer in flowers.layers][-4:]
        ['fc1', 'fc2', 'predictions', 'softmax']
    """
    num_classes = checked_integer("num_classes", num_classes, minimum=2)
    asked = None if task is None else checked_task(task)
    names = None if class_names is None else about.checked_class_names(class_names, num_classes)
    check_graph(model)
    if len(model.outputs) != 1:
        raise ValueError(
            "model must have one output; make a model of the one whose head is meant with "
            "keras.Model(model.inputs, model.outputs[i]), and replace its head. "
            f"Received: model {model.name!r} with {len(model.outputs)} outputs"
        )
    first, output = _replaced(model, part)
    rows = {}
    if init_from is not None:
        if part != "output" or hidden_units:
            raise ValueError(
                "init_from needs part='output' and no hidden_units: on other features the old "
                f"weights mean nothing. Received: part={part!r}, hidden_units={hidden_units!r}"
            )
        if output.quantization_mode is not None:
            raise ValueError(
                "init_from needs an output layer that was not quantized, as its weights are rounded to "
                "few bits; give the model that it was made of. "
                f"Received: model {model.name!r} with {output.name!r} in {output.quantization_mode}"
            )
        rows = _rows(init_from, names, num_classes, model)
    features = input_of(model, first)
    # A sequential model has no `input`; of others it is the structure in which they take their inputs.
    inputs = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    kept = {operation.name for operation in keras.Model(inputs, features).operations}
    if len(features.shape) == 4 and part == "output":
        pooling = "avg"  # a 1 x 1 convolution, as in MobileNet, does the same before or after
    head = num_classes, pooling, hidden_units, dropout, seed
    logits = add_head(features, *head, taken=kept, tokens=tokens_of(features, model))
    if asked is None:
        outputs = ended(logits, model, output, kept)
    else:
        outputs = (sigmoid if asked is MULTI_LABEL else softmax)(logits, kept)
    replaced = keras.Model(inputs, outputs, name=model.name)
    made = [layer for layer in replaced.layers if layer.name not in kept]
    about.mark_new(replaced, made)
    if rows:
        _copy_rows(output, [layer for layer in made if layer.weights][-1], rows)
    about.attach_class_names(replaced, names)
    about.attach_origin(replaced, about.origin_of(model))
    guard(replaced)
    guard(model)  # which shares the layers
    return replaced


def _replaced(model: keras.Model, part: Selection) -> tuple[keras.Layer, keras.Layer]:
    """Return the first layer that is replaced, and the one that gives the old logits."""
    output = last_weighted(model)
    replaced = select(model, part, argument="part")
    first = replaced[0]
    if part == "output":
        after = [ending.call.operation for ending in endings(model, output)[1:]]
        lost = [operation.name for operation in after if type(operation).__name__ not in _ENDINGS]
        pointwise = isinstance(output, keras.layers.Conv2D) and set(output.kernel_size) == {1}
        if lost or not (isinstance(output, keras.layers.Dense) or pointwise):
            problem = (
                f"what follows it ({', '.join(lost)}) would be lost"
                if lost
                else f"it is a {type(output).__name__}, not a Dense layer or a 1 x 1 convolution"
            )
            raise ValueError(
                f"the last layer with weights, {output.name!r}, is no output layer that can be "
                f"replaced: {problem}. Say part='head' or part='from:<layer>'. Received: part={part!r}"
            )
    leaves = leaf_layers(model)
    after = leaves[leaves.index(first) :]
    stay = [layer.name for layer in after if layer.weights and layer not in replaced]
    if stay:
        raise ValueError(
            f"part must reach to the end of the model, but {', '.join(stay)} would stay. "
            f"Say part='from:{first.name}'. Received: part={part!r}"
        )
    if not any(call.on_trunk and call.operation is first for call in walk(model)):
        raise ValueError(
            f"the head must begin at a layer that all paths through the model run through, but some "
            f"by-pass {first.name!r}. Say part='from:<layer>' with such a layer. Received: part={part!r}"
        )
    return first, output


def _copy_rows(old: keras.Layer, new: keras.layers.Dense, rows: dict[int, int]) -> None:
    """Give some classes of the new output the weights and bias that others have in the old one."""
    pairs = [(new.kernel, old.kernel), *([(new.bias, old.bias)] if old.use_bias else [])]
    for target, source in pairs:
        values = np.array(keras.ops.convert_to_numpy(target))
        known = keras.ops.convert_to_numpy(source)
        known = known.reshape(*values.shape[:-1], -1)  # of a 1 x 1 convolution, too
        values[..., list(rows)] = known[..., list(rows.values())]
        target.assign(values)


def _rows(
    init_from: Mapping[Any, Any], names: list[str] | None, num_classes: int, model: keras.Model
) -> dict[int, int]:
    """Return `init_from` with indices for names."""
    if not isinstance(init_from, Mapping):
        raise TypeError(
            f"init_from must be a dict {{new class: class of the model}}. Received: {init_from!r}"
        )
    sources = model.output_shape[-1]
    old_names = about.class_names(model)
    if old_names is None and any(isinstance(source, str) for source in init_from.values()):
        old_names = _imagenet_names() if sources == _IMAGENET_CLASSES else None
    return {
        _index("new class", new, names, num_classes): _index("old class", old, old_names, sources)
        for new, old in init_from.items()
    }


def _index(kind: str, given: Any, names: list[str] | None, count: int) -> int:
    if isinstance(given, str):
        indices = [index for index, name in enumerate(names or ()) if name == given]
        if len(indices) == 1:
            return indices[0]
        problem = (
            f"{len(indices)} are called {given!r}, with indices {indices}"
            if indices
            else f"no class is called {given!r}{did_you_mean(given, names)}"
            if names
            else f"the names of the {kind}es are not known, so {given!r} means none"
        )
    elif hasattr(given, "__index__") and not isinstance(given, bool) and 0 <= given < count:
        return given.__index__()
    else:
        problem = f"there is no class {given!r}"
    raise ValueError(
        f"init_from must tell each {kind} by an index from 0 to {count - 1} or by its name: "
        f"{problem.rstrip('.')}{'' if problem.endswith('?') else '.'} Received: {given!r}"
    )


def _imagenet_names() -> list[str]:
    advice = "Check the network, or give the class by its index."
    with fetching("the names of ImageNet's classes", advice):
        decoded = keras.applications.imagenet_utils.decode_predictions(
            np.eye(_IMAGENET_CLASSES, dtype="float32"), top=1
        )
    return [best[0][1] for best in decoded]
