"""What the weights of each family are called in files of Hugging Face's transformers."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from keras_transfer.backbones.transformers.positions import resized
from keras_transfer.backbones.transformers.settings import Config
from keras_transfer.backbones.transformers.swin import Swin
from keras_transfer.backbones.transformers.vit import VisionTransformer


@dataclass(frozen=True)
class Names:
    """The names of a family; "" is what it has not.

    Attributes:
        prefixes: what all names may begin with, by the class that was saved.
        patches: the patches' convolution.
        tokens: the tokens before those of the patches: class, distillation and register tokens.
        positions: the table of positions.
        norm_first: the norm before the first block.
        block: what the names of a block begin with, with its number; of Swin with that of its stage.
        norm1: the norm before attention; this and the next within a block.
        query: the queries.
        key: the keys.
        value: the values.
        output: what attention gives.
        scale1: the factors of its channels.
        norm2: the norm before the dense layers.
        mlp_in: the first dense layer.
        mlp_gate: the one beside it; with the same name as the first, both are in one tensor, the gate
            before the other.
        mlp_out: the last dense layer.
        scale2: the factors of its channels.
        biases: Swin's table of biases, by how far tokens are apart.
        norm: the last norm.
        pool: what the names of SigLIP's pooling begin with.
        unused: a pattern of what is no part of the features: heads, texts, masks, numbers that are
            computed.
    """

    prefixes: tuple[str, ...]
    patches: str = "embeddings.patch_embeddings.projection"
    tokens: tuple[str, ...] = ("embeddings.cls_token",)
    positions: str = "embeddings.position_embeddings"
    norm_first: str = ""
    block: str = "encoder.layer.{}."
    norm1: str = "norm1"
    query: str = "attention.attention.query"
    key: str = "attention.attention.key"
    value: str = "attention.attention.value"
    output: str = "attention.output.dense"
    scale1: str = "layer_scale1.lambda1"
    norm2: str = "norm2"
    mlp_in: str = "mlp.fc1"
    mlp_gate: str = ""
    mlp_out: str = "mlp.fc2"
    scale2: str = "layer_scale2.lambda1"
    biases: str = ""
    norm: str = "layernorm"
    pool: str = ""
    unused: str = r"(?!)"


_VIT = Names(
    prefixes=("", "vit.", "deit."),
    norm1="layernorm_before",
    norm2="layernorm_after",
    mlp_in="intermediate.dense",
    mlp_out="output.dense",
    unused=r"embeddings\.mask_token|pooler\..*|(cls_|distillation_)?classifier\..*|decoder\..*",
)
_DINOV2 = Names(
    prefixes=("", "dinov2.", "dinov2_with_registers."),
    unused=r"embeddings\.mask_token|classifier\..*",
)
_CLIP = Names(
    prefixes=("", "vision_model."),
    patches="embeddings.patch_embedding",
    tokens=("embeddings.class_embedding",),
    positions="embeddings.position_embedding.weight",
    norm_first="pre_layrnorm",  # so it is spelled there
    block="encoder.layers.{}.",
    norm1="layer_norm1",
    query="self_attn.q_proj",
    key="self_attn.k_proj",
    value="self_attn.v_proj",
    output="self_attn.out_proj",
    norm2="layer_norm2",
    norm="post_layernorm",
    pool="head.",
    unused=r"embeddings\.position_ids|text_model\..*|(text|visual)_projection\.weight"
    r"|logit_(scale|bias)|classifier\..*",
)
_FAMILIES = {
    "vit": _VIT,
    "deit": Names(**{**vars(_VIT), "tokens": ("embeddings.cls_token", "embeddings.distillation_token")}),
    "dinov2": _DINOV2,
    "dinov2_with_registers": Names(
        **{**vars(_DINOV2), "tokens": ("embeddings.cls_token", "embeddings.register_tokens")}
    ),
    "dinov3_vit": Names(
        prefixes=("", "model.", "dinov3_vit."),
        patches="embeddings.patch_embeddings",
        tokens=("embeddings.cls_token", "embeddings.register_tokens"),
        block="layer.{}.",
        query="attention.q_proj",
        key="attention.k_proj",
        value="attention.v_proj",
        output="attention.o_proj",
        mlp_in="mlp.up_proj",
        mlp_gate="mlp.gate_proj",
        mlp_out="mlp.down_proj",
        norm="norm",
        unused=r"embeddings\.mask_token|rope_embeddings\.inv_freq|classifier\..*",
    ),
    "clip_vision_model": _CLIP,
    "siglip_vision_model": Names(**{**vars(_CLIP), "tokens": (), "norm_first": ""}),
    "swin": Names(
        prefixes=("", "swin."),
        tokens=(),
        norm_first="embeddings.norm",
        block="encoder.layers.{}.blocks.{}.",
        norm1="layernorm_before",
        query="attention.self.query",
        key="attention.self.key",
        value="attention.self.value",
        norm2="layernorm_after",
        mlp_in="intermediate.dense",
        mlp_out="output.dense",
        biases="attention.self.relative_position_bias_table",
        unused=r"embeddings\.mask_token|.*\.relative_position_index|.*\.attn_mask|classifier\..*"
        r"|decoder\..*",
    ),
}


class Weights(NamedTuple):
    """The weights of a layer, in its order.

    Attributes:
        layer: the name of the layer.
        tensors: the names of the tensors that they come from.
        arrays: the weights.
    """

    layer: str
    tensors: list[str]
    arrays: list[np.ndarray]


def names_of(kind: str, config: Config) -> Names:
    """Return the names of a family, given its `model_type`."""
    names = _FAMILIES[kind]
    if isinstance(config, VisionTransformer) and config.gated and not names.mlp_gate:  # DINOv2's giant
        both = {"mlp_in": "mlp.weights_in", "mlp_gate": "mlp.weights_in", "mlp_out": "mlp.weights_out"}
        names = Names(**{**vars(names), **both})
    return names


def weights_of(
    names: Names, config: Config, tensors: Mapping[str, np.ndarray], grid: tuple[int, int]
) -> Iterator[Weights]:
    """Yield the weights of each layer of a network, as it needs them.

    Args:
        names: of its family.
        config: what it is made of.
        tensors: the tensors of a checkpoint by their names.
        grid: how many rows and columns of patches its images have.

    Raises:
        ValueError: a tensor is missing, has another shape than it should, or is left over at the end.
    """
    read = _Reader(tensors, _prefix(names, tensors))
    yield read.convolution("stem_patches", names.patches)
    if isinstance(config, Swin):
        yield from _of_swin(read, names, config, grid)
    else:
        yield from _of_vit(read, names, config, grid)
    read.check_rest(names.unused)


def _prefix(names: Names, tensors: Mapping[str, np.ndarray]) -> str:
    wanted = f"{names.patches}.weight"
    for prefix in names.prefixes:
        if prefix + wanted in tensors:
            return prefix
    raise ValueError(
        f"the weights must have {wanted!r}, or that behind {' or '.join(filter(None, names.prefixes))}. "
        f"Received: {len(tensors)} tensors, the first of which are {sorted(tensors)[:3]}"
    )


class _Reader:
    """Reads tensors in the forms that layers of Keras have, and keeps in mind which.

    Args:
        tensors: those of a checkpoint.
        prefix: what their names begin with.
    """

    def __init__(self, tensors: Mapping[str, np.ndarray], prefix: str) -> None:
        self._tensors = tensors
        self._prefix = prefix
        self._read: set[str] = set()

    def raw(self, name: str) -> np.ndarray:
        """Return a tensor in float32."""
        full = self._prefix + name
        if full not in self._tensors:
            raise ValueError(f"the weights must have a tensor {full!r}. Received: none of this name")
        self._read.add(full)
        return self._tensors[full].astype("float32")

    def has(self, name: str) -> bool:
        return self._prefix + name in self._tensors

    def numbers(self, layer: str, name: str) -> Weights:
        return Weights(layer, [name], [self.raw(name)])

    def both(self, layer: str, name: str, bias: bool = True) -> Weights:
        """Return the weights of a dense layer."""
        kernel = self.raw(f"{name}.weight").T
        given = {f"{name}.weight": kernel}
        if bias:
            given[f"{name}.bias"] = self.raw(f"{name}.bias")
        return Weights(layer, list(given), list(given.values()))

    def norm(self, layer: str, name: str) -> Weights:
        wanted = [f"{name}.weight", f"{name}.bias"]
        return Weights(layer, wanted, [self.raw(each) for each in wanted])

    def convolution(self, layer: str, name: str) -> Weights:
        wanted = [f"{name}.weight"]
        kernel = self.raw(wanted[0])
        if kernel.ndim != 4:
            raise _wrong_shape(wanted[0], kernel.shape, "(channels, 3, height, width)")
        arrays = [kernel.transpose(2, 3, 1, 0)]
        if self.has(f"{name}.bias"):
            wanted.append(f"{name}.bias")
            arrays.append(self.raw(wanted[1]))
        return Weights(layer, wanted, arrays)

    def halves(self, layers: tuple[str, str], name: str) -> Iterator[Weights]:
        """Yield the weights of two dense layers that lie in one tensor."""
        wanted = [f"{name}.weight", f"{name}.bias"]
        kernels, biases = (np.split(self.raw(each), 2) for each in wanted)
        for layer, kernel, bias in zip(layers, kernels, biases, strict=True):
            yield Weights(layer, wanted, [kernel.T, bias])

    def check_rest(self, unused: str) -> None:
        """Raise if a tensor is left over that might belong to the features."""
        pattern = re.compile(unused)
        for full in sorted(self._tensors.keys() - self._read):
            if not pattern.fullmatch(full) and not pattern.fullmatch(full.removeprefix(self._prefix)):
                raise ValueError(
                    "every tensor must have a place in the network; config.json may belong to another. "
                    f"Received: {full!r}, which has none"
                )


def _wrong_shape(name: str, shape: tuple[int, ...], wanted: object) -> ValueError:
    return ValueError(
        f"the tensor {name!r} must have shape {wanted}; config.json may belong to another network. "
        f"Received: shape {shape}"
    )


def _of_vit(
    read: _Reader, names: Names, config: VisionTransformer, grid: tuple[int, int]
) -> Iterator[Weights]:
    wanted = [
        each
        for index, each in enumerate(names.tokens)
        if index < config.class_tokens or config.registers or read.has(each)
    ]
    tokens = [read.raw(each).reshape(-1, config.width) for each in wanted]
    if config.positions == "learned":
        shape = tuple(size // side for size, side in zip(config.image_size, config.patch, strict=True))
        table = read.raw(names.positions).reshape(-1, config.width)
        if len(table) != config.class_tokens + shape[0] * shape[1]:
            raise _wrong_shape(
                names.positions,
                table.shape,
                (config.class_tokens + shape[0] * shape[1], config.width),
            )
        for index in range(config.class_tokens):
            tokens[index] = tokens[index] + table[index]
        patches = resized(
            table[config.class_tokens :].reshape(*shape, -1), grid, antialias=config.antialias
        )
        yield Weights("stem_positions", [names.positions], [patches.reshape(1, -1)])
    if tokens:
        yield Weights("stem_tokens", wanted, [np.concatenate(tokens).reshape(1, -1)])
    if config.norm_first:
        yield read.norm("stem_norm", names.norm_first)
    biases = (config.query_bias, config.key_bias, config.value_bias, config.output_bias)
    for index in range(config.depth):
        block = names.block.format(index)
        yield from _block(read, names, block, f"block{index + 1}", biases, config)
    yield read.norm("norm", names.norm)
    if config.end == "pooled":
        yield from _pool(read, names.pool)


def _block(
    read: _Reader,
    names: Names,
    block: str,
    layer: str,
    biases: tuple[bool, ...],
    config: VisionTransformer | None,
) -> Iterator[Weights]:
    """Yield the weights of a block; of Swin there is no further configuration."""
    mlp_bias = config is None or config.mlp_bias
    yield read.norm(f"{layer}_norm1", block + names.norm1)
    yield read.norm(f"{layer}_norm2", block + names.norm2)
    parts = {"query": names.query, "key": names.key, "value": names.value, "output": names.output}
    for (part, name), bias in zip(parts.items(), biases, strict=True):
        yield read.both(f"{layer}_attention_{part}", block + name, bias)
    if config is not None and config.gated and names.mlp_gate == names.mlp_in:
        yield from read.halves((f"{layer}_mlp_gate", f"{layer}_mlp_in"), block + names.mlp_in)
    else:
        yield read.both(f"{layer}_mlp_in", block + names.mlp_in, mlp_bias)
        if config is not None and config.gated:
            yield read.both(f"{layer}_mlp_gate", block + names.mlp_gate, mlp_bias)
    yield read.both(f"{layer}_mlp_out", block + names.mlp_out, mlp_bias)
    if config is not None and config.layer_scale:
        yield read.numbers(f"{layer}_scale1", block + names.scale1)
        yield read.numbers(f"{layer}_scale2", block + names.scale2)


def _pool(read: _Reader, pool: str) -> Iterator[Weights]:
    """Yield the weights of SigLIP's pooling, whose queries, keys and values lie in one tensor."""
    probe = f"{pool}probe"
    yield Weights("pool_probe", [probe], [read.raw(probe).reshape(1, -1)])
    wanted = [f"{pool}attention.in_proj_weight", f"{pool}attention.in_proj_bias"]
    kernels, biases = (np.split(read.raw(each), 3) for each in wanted)
    for part, kernel, bias in zip(("query", "key", "value"), kernels, biases, strict=True):
        yield Weights(f"pool_attention_{part}", wanted, [kernel.T, bias])
    yield read.both("pool_attention_output", f"{pool}attention.out_proj")
    yield read.norm("pool_norm", f"{pool}layernorm")
    yield read.both("pool_mlp_in", f"{pool}mlp.fc1")
    yield read.both("pool_mlp_out", f"{pool}mlp.fc2")


def _of_swin(read: _Reader, names: Names, config: Swin, grid: tuple[int, int]) -> Iterator[Weights]:
    yield read.norm("stem_norm", names.norm_first)
    if config.positions:
        shape = tuple(size // side for size, side in zip(config.image_size, config.patch, strict=True))
        table = read.raw(names.positions).reshape(-1, config.width)
        if len(table) != shape[0] * shape[1]:
            raise _wrong_shape(names.positions, table.shape, (shape[0] * shape[1], config.width))
        table = resized(table.reshape(*shape, -1), grid, antialias=False)
        yield Weights("stem_positions", [names.positions], [table.reshape(1, -1)])
    number = 0
    biases = (config.attention_bias,) * 3 + (True,)
    for stage, depth in enumerate(config.depths):
        for place in range(depth):
            number += 1
            layer, block = f"block{number}", names.block.format(stage, place)
            if stage and not place:
                before = f"encoder.layers.{stage - 1}.downsample."
                yield read.norm(f"{layer}_merge_norm", f"{before}norm")
                yield read.both(f"{layer}_merge_reduction", f"{before}reduction", bias=False)
            yield from _block(read, names, block, layer, biases, None)
            table = read.raw(block + names.biases)
            yield Weights(f"{layer}_attention_positions", [block + names.biases], [table.reshape(1, -1)])
    yield read.norm("norm", names.norm)
