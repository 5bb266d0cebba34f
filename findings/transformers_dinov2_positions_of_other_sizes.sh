#!/usr/bin/env bash
# DINOv2 with and without registers make other tables of positions of the same weights for 224 px.
#
# Expected: both were trained at 518 px and are used at 224; registers are tokens more, and change nothing of how the
# table of positions shrinks from 37 x 37 to 16 x 16. What one calls bicubic is the same in both.
# What happens (transformers 5.24.0, torch 2.13.0): `Dinov2WithRegistersEmbeddings` interpolates with antialias=True,
# `Dinov2Embeddings` without. PyTorch's bicubic kernel has another coefficient then, too (-0.5 in place of -0.75), so
# even tables that grow differ. Of a table of noise the shrunk ones are four fifths of their norm apart.
# Where it matters: features of one family computed by code of the other, and ports that share the function, are off
# without a word, at the size that everyone uses.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet transformers==5.24.0 torch==2.13.0 numpy==2.4.6
export HF_HOME=$folder/hf HF_HUB_OFFLINE=1
"$folder/venv/bin/python" - <<'PYTHON'
import torch
import transformers
from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

print("transformers", transformers.__version__, "torch", torch.__version__)
settings = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 518, "patch_size": 14}
plain = Dinov2Model(Dinov2Config(**settings)).embeddings
registers = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**settings)).embeddings
table = torch.randn(plain.position_embeddings.shape, generator=torch.Generator().manual_seed(0))


def positions(embeddings, size):
    """Return the positions of the patches of images of a size."""
    with torch.no_grad():
        embeddings.position_embeddings.copy_(table)
        tokens = torch.zeros(1, 1 + (size // 14) ** 2, 16)
        return embeddings.interpolate_pos_encoding(tokens, size, size)[:, 1:].detach()


apart = {}
for size in (518, 224, 1036):
    one, other = positions(plain, size), positions(registers, size)
    apart[size] = float((one - other).norm() / one.norm())
    print(f"{size} px: {apart[size]:.3f} of the norm apart")
assert apart[518] == 0
assert apart[224] > 0.5
assert apart[1036] > 0.01
PYTHON
