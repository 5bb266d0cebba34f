"""The vision transformer and its kin: DeiT, DINOv2, DINOv3 and the image parts of CLIP and SigLIP."""

from dataclasses import dataclass
from typing import Literal

import keras

from keras_transfer._lib.keras_private.layers import layer_scale
from keras_transfer.backbones.transformers import parts
from keras_transfer.backbones.transformers.positions import grid_of, rotation


@dataclass(frozen=True)
class VisionTransformer:
    """What a vision transformer is made of.

    Attributes:
        image_size: height and width in pixels of the images that it was trained on.
        patch: those of a patch.
        width: how many channels a token has.
        depth: how many blocks there are.
        heads: how many heads attention has.
        mlp_width: how many channels there are inside of the dense layers of a block.
        activation: between these; one of `parts.ACTIVATIONS`.
        epsilon: of the layer norms.
        class_tokens: how many tokens with a position stand before those of the patches: the class token,
            and the distillation token of DeiT.
        registers: how many tokens without a position stand between these and the patches.
        positions: "learned" for a table of them, or "rotary".
        antialias: whether a table for smaller images is made with a wider kernel.
        theta: the base of the frequencies of rotary positions.
        layer_scale: whether the branches of a block have a factor for each channel.
        norm_first: whether the tokens are normed before the first block, as in CLIP.
        gated: whether the dense layers have a gate, as in SwiGLU.
        patch_bias: whether the patches' convolution has a bias.
        query_bias: whether the queries have one; the same for what follows.
        key_bias: of the keys.
        value_bias: of the values.
        output_bias: of what attention gives.
        mlp_bias: of the dense layers.
        end: "tokens" for all tokens behind the last norm; "pooled" for one vector an image, by attention
            of a query that was learned, as in SigLIP.
        drop_path: by what share of samples the branches of the last block are left out in training; that
            of the others grows with depth.
    """

    image_size: tuple[int, int]
    patch: tuple[int, int]
    width: int
    depth: int
    heads: int
    mlp_width: int
    activation: str = "gelu"
    epsilon: float = 1e-6
    class_tokens: int = 1
    registers: int = 0
    positions: Literal["learned", "rotary"] = "learned"
    antialias: bool = False
    theta: float = 100.0
    layer_scale: bool = False
    norm_first: bool = False
    gated: bool = False
    patch_bias: bool = True
    query_bias: bool = True
    key_bias: bool = True
    value_bias: bool = True
    output_bias: bool = True
    mlp_bias: bool = True
    end: Literal["tokens", "pooled"] = "tokens"
    drop_path: float = 0.0

    @property
    def prefix(self) -> int:
        """How many tokens stand before those of the patches."""
        return self.class_tokens + self.registers


def vision_transformer(config: VisionTransformer, images: keras.KerasTensor) -> keras.KerasTensor:
    """Add a vision transformer to a graph, layer by layer.

    The layers are stock ones and are called stem_..., block1_..., block2_... and so on; all paths run
    through what each block ends in, "block1_add2" and so on.

    Args:
        config: what it is made of.
        images: the symbolic images as the network takes them, of shape (batch, height, width, 3). Each
            side must be a multiple of the patch's.

    Returns:
        The tokens, of shape (batch, tokens, channels), those of `config.prefix` first, then the patches
        row by row; or one vector an image, of shape (batch, channels).

    Raises:
        ValueError: the images' size fits no whole number of patches.

    Example:
        >>> import keras
        >>> from keras_transfer.backbones.transformers.vit import VisionTransformer, vision_transformer
        >>> config = VisionTransformer((32, 32), (8, 8), width=16, depth=2, heads=2, mlp_width=32)
        >>> vision_transformer(config, keras.Input((32, 48, 3))).shape
        (None, 25, 16)

    References:
        ViT, https://arxiv.org/abs/2010.11929; DeiT, https://arxiv.org/abs/2012.12877; DINOv2,
        https://arxiv.org/abs/2304.07193; registers, https://arxiv.org/abs/2309.16588; DINOv3,
        https://arxiv.org/abs/2508.10104; CLIP, https://arxiv.org/abs/2103.00020; SigLIP,
        https://arxiv.org/abs/2303.15343
    """
    grid = grid_of(images.shape[1:3], config.patch, config.image_size)
    x = _stem(config, images, grid)
    for index in range(config.depth):
        rate = config.drop_path * index / max(config.depth - 1, 1)
        x = _block(config, x, grid, f"block{index + 1}", rate)
    # A name of no stage: the norm goes with the last block, whose output it makes features of.
    x = parts.norm(config.epsilon, "norm")(x)
    return _pooled(config, x) if config.end == "pooled" else x


def _stem(
    config: VisionTransformer, images: keras.KerasTensor, grid: tuple[int, int]
) -> keras.KerasTensor:
    """Add the patches' convolution, the tokens before them and the positions."""
    patches, width, prefix = grid[0] * grid[1], config.width, config.prefix
    x = keras.layers.Conv2D(
        width, config.patch, strides=config.patch, use_bias=config.patch_bias, name="stem_patches"
    )(images)
    x = keras.layers.Reshape((patches, width), name="stem_sequence")(x)
    ones = parts.one(x)
    tables = []
    if prefix:
        tables.append(parts.table(ones, (prefix, width), "stem_tokens"))
        x = keras.layers.ZeroPadding1D((prefix, 0), name="stem_room")(x)
    if config.positions == "learned":
        tables.append(parts.table(ones, (patches, width), "stem_positions"))
    if len(tables) == 2:
        added = keras.layers.Concatenate(axis=1, name="stem_tables")(tables)
    elif prefix:
        added = keras.layers.ZeroPadding1D((0, patches), name="stem_tables")(*tables)
    elif tables:
        (added,) = tables
    else:
        return x
    x = keras.layers.Add(name="stem_add")([x, added])
    return parts.norm(config.epsilon, "stem_norm")(x) if config.norm_first else x


def _block(
    config: VisionTransformer, x: keras.KerasTensor, grid: tuple[int, int], name: str, rate: float
) -> keras.KerasTensor:
    """Add a block: attention and dense layers, each with a norm before it and a way around it."""
    for place, branch in enumerate(("attention", "mlp"), start=1):
        y = parts.norm(config.epsilon, f"{name}_norm{place}")(x)
        if branch == "attention":
            y = _attention(config, y, grid, f"{name}_attention")
        else:
            how = {"gated": config.gated, "bias": config.mlp_bias}
            y = parts.mlp(y, config.mlp_width, config.activation, f"{name}_mlp", **how)
        if config.layer_scale:
            y = layer_scale(config.width, name=f"{name}_scale{place}")(y)
        y = parts.dropped(y, rate, f"{name}_drop{place}")
        x = keras.layers.Add(name=f"{name}_add{place}")([x, y])
    return x


def _attention(
    config: VisionTransformer, x: keras.KerasTensor, grid: tuple[int, int], name: str
) -> keras.KerasTensor:
    """Add attention of all tokens to all."""
    query = parts.heads_of(x, config.heads, f"{name}_query", config.query_bias)
    key = parts.heads_of(x, config.heads, f"{name}_key", config.key_bias)
    value = parts.heads_of(x, config.heads, f"{name}_value", config.value_bias)
    if config.positions == "rotary":
        query, key = _turned(config, query, key, grid, name)
    return _attended(query, key, value, name, config.output_bias)


def _attended(
    query: keras.KerasTensor,
    key: keras.KerasTensor,
    value: keras.KerasTensor,
    name: str,
    bias: bool = True,
) -> keras.KerasTensor:
    tokens, heads, size = query.shape[1:]
    found = keras.ops.dot_product_attention(query, key, value)
    found = keras.layers.Reshape((tokens, heads * size), name=f"{name}_joined")(found)
    return parts.dense(heads * size, f"{name}_output", bias)(found)


def _turned(
    config: VisionTransformer,
    query: keras.KerasTensor,
    key: keras.KerasTensor,
    grid: tuple[int, int],
    name: str,
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Turn the vectors of the patches by where these are, those of queries and keys at once."""
    heads, size = query.shape[2:]
    both = keras.layers.Concatenate(axis=2, name=f"{name}_both")([query, key])
    patches = both[:, config.prefix :] if config.prefix else both
    x = keras.layers.Reshape((*grid, 2 * heads, size), name=f"{name}_grid")(patches)
    by = rotation(grid, size, config.theta)
    ops = keras.ops
    turned = ops.multiply(ops.multiply(x, by.cosine_of_rows), by.cosine_of_columns)
    exchanged = ops.roll(x, size // 2, axis=-1)
    turned += ops.multiply(ops.multiply(exchanged, by.sine_of_rows), by.sine_of_columns)
    if turned.dtype != both.dtype:  # the factors are float32, also where all else has 16 bits
        turned = ops.cast(turned, both.dtype)
    patches = grid[0] * grid[1]
    turned = keras.layers.Reshape((patches, 2 * heads, size), name=f"{name}_turned")(turned)
    if config.prefix:
        turned = keras.layers.Concatenate(axis=1, name=f"{name}_tokens")(
            [both[:, : config.prefix], turned]
        )
    return turned[:, :, :heads], turned[:, :, heads:]


def _pooled(config: VisionTransformer, x: keras.KerasTensor) -> keras.KerasTensor:
    """Add what makes one vector of all tokens: attention of a learned query, and dense layers."""
    ones = keras.ops.ones_like(x[:, :1, :1])  # one a sample, as attention wants
    probe = parts.table(ones, (1, config.width), "pool_probe")
    query = parts.heads_of(probe, config.heads, "pool_attention_query")
    key = parts.heads_of(x, config.heads, "pool_attention_key")
    value = parts.heads_of(x, config.heads, "pool_attention_value")
    x = _attended(query, key, value, "pool_attention")
    y = parts.norm(config.epsilon, "pool_norm")(x)
    y = parts.mlp(y, config.mlp_width, config.activation, "pool_mlp")
    x = keras.layers.Add(name="pool_add")([x, y])
    return keras.layers.Reshape((config.width,), name="pool_vector")(x)
