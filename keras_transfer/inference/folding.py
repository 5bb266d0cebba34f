"""What a graph for inference can do without: factors and offsets go into the weights beside them."""

from collections import Counter

import numpy as np

from keras_transfer.inference.steps import Step, Steps


def fold(steps: Steps) -> None:
    """Fold affine steps, as of batch norm, and padding into convolutions and dense layers beside them.

    It is done in float64. What can't be folded becomes an operation of ONNX.
    """
    _fold_into_producers(steps)
    _fold_into_convolutions(steps)
    _fold_padding(steps)
    for step in steps.steps:
        if step.op == "Affine":
            _as_operation(steps, step)


def _uses(steps: Steps) -> Counter[str]:
    return Counter([name for step in steps.steps for name in step.inputs] + steps.outputs)


def _fold_into_producers(steps: Steps) -> None:
    """Put an affine step into the convolution, dense layer or affine step that it follows alone."""
    uses, kept = _uses(steps), []
    made: dict[str, Step] = {}  # by what they give
    for step in steps.steps:
        before = made.get(step.inputs[0]) if step.op == "Affine" else None
        if before is not None and before.op in ("Conv", "Gemm", "Affine") and uses[before.output] == 1:
            scale, shift = (steps.constants[name] for name in step.inputs[1:])
            weight, bias = before.inputs[1:]
            along = (-1, 1, 1, 1) if before.op == "Conv" else (-1,)
            steps.constants[weight] = steps.constants[weight] * scale.reshape(along)
            steps.constants[bias] = steps.constants[bias] * scale + shift
            before.output = step.output
            step = before
        else:
            kept.append(step)
        made[step.output] = step
    steps.steps = kept


def _fold_into_convolutions(steps: Steps) -> None:
    """Put an affine step into the convolution that alone follows it, where no zeros come between."""
    uses = _uses(steps)
    after = {step.inputs[0]: step for step in steps.steps if step.op == "Conv"}
    for step in list(steps.steps):
        conv = after.get(step.output) if step.op == "Affine" else None
        if conv is None or uses[step.output] != 1 or conv.attributes.get("group", 1) != 1:
            continue
        scale, shift = (steps.constants[name] for name in step.inputs[1:])
        if shift.any() and any(conv.attributes.get("pads", ())):
            continue
        weight, bias = conv.inputs[1:]
        kernel = steps.constants[weight]
        steps.constants[bias] = steps.constants[bias] + np.einsum("oihw,i->o", kernel, shift)
        steps.constants[weight] = kernel * scale.reshape(1, -1, 1, 1)
        conv.inputs[0] = step.inputs[0]
        steps.steps.remove(step)


def _fold_padding(steps: Steps) -> None:
    """Put zeros around feature maps into the convolution that alone follows."""
    uses = _uses(steps)
    after = {step.inputs[0]: step for step in steps.steps if step.op == "Conv"}
    for step in list(steps.steps):
        conv = after.get(step.output) if step.op == "Pad" else None
        if conv is not None and uses[step.output] == 1:
            top, left, bottom, right = steps.constants[step.inputs[1]][[2, 3, 6, 7]].tolist()
            own = conv.attributes.get("pads", [0, 0, 0, 0])
            added = zip(own, (top, left, bottom, right), strict=True)
            conv.attributes["pads"] = [one + other for one, other in added]
            conv.inputs[0] = step.inputs[0]
            steps.steps.remove(step)


def _as_operation(steps: Steps, step: Step) -> None:
    """Make of an affine step what runtimes know: batch norm, of which the channels are axis 1."""
    if step.attributes["axis"] == 1:
        channels = len(steps.constants[step.inputs[1]])
        neutral = [steps.constant(np.zeros(channels)), steps.constant(np.ones(channels))]
        step.op, step.attributes = "BatchNormalization", {"epsilon": 0.0}
        step.inputs = [*step.inputs, *neutral]
        return
    product = f"{step.output}_product"
    place = steps.steps.index(step)
    x, scale, shift = step.inputs
    if not steps.constants[shift].any():
        steps.steps[place] = Step("Mul", [x, scale], step.output, {})
        return
    steps.steps[place : place + 1] = [
        Step("Mul", [x, scale], product, {}),
        Step("Add", [product, shift], step.output, {}),
    ]
