#!/usr/bin/env bash
# Keras on torch copies the input of each convolution twice.
#
# Expected: channels last is Keras' usual layout, and torch has a memory format of that name, which its
# convolutions read as it is. So a convolution of Keras on torch should copy nothing of its input.
# What happens (Keras 3.15.1, torch 2.13.0): the input is copied to channels first, and from there to
# channels last again, the layout that it had. Its gradient goes the same way back, so a training step copies
# each feature map four times. Without these copies convolutions give the same bits.
# Where it matters: training convolutional networks with Keras on torch, on a processor most of all.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet keras==3.15.1 torch==2.13.0 numpy==2.4.6
export KERAS_HOME=$folder/keras KERAS_BACKEND=torch
"$folder/venv/bin/python" - <<'PYTHON'
import keras
import torch
from torch.profiler import ProfilerActivity, profile

print("Keras", keras.__version__, "torch", torch.__version__)
maps = torch.randn(8, 16, 16, 32, requires_grad=True)  # batch, rows, columns, channels
kernel = torch.randn(3, 3, 32, 32)


def large_copies(action):
    """Return how often something as large as the maps is copied."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        action()
    copies = [event for event in seen.events() if event.name == "aten::copy_" and event.input_shapes]
    sizes = [torch.Size(event.input_shapes[0]).numel() for event in copies]
    return sum(size == maps.numel() for size in sizes)


def by_keras():
    return keras.ops.conv(maps, kernel, padding="same")


def by_torch():
    channels_last = maps.permute(0, 3, 1, 2)  # a view
    weight = kernel.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
    return torch.nn.functional.conv2d(channels_last, weight, padding=1).permute(0, 2, 3, 1)


forward = large_copies(by_keras), large_copies(by_torch)
same = torch.equal(by_keras(), by_torch())
print("copies of the input, Keras and plain torch:", *forward)
print("the same bits:", same)
assert forward == (2, 0), "Keras copies otherwise now"
assert same
PYTHON
