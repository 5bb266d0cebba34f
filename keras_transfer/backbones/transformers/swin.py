"""Swin: attention within windows, which are shifted by half of one in every other block."""

from dataclasses import dataclass
from itertools import accumulate

import keras
import numpy as np

from keras_transfer.backbones.transformers import parts
from keras_transfer.backbones.transformers.positions import grid_of

_OTHER_EPSILON = 1e-5  # of the norms outside of blocks, whatever that of the others is
_APART = -100.0  # what is added to the score of two tokens that only the shift has made neighbours


@dataclass(frozen=True)
class Swin:
    """What a Swin transformer is made of.

    Attributes:
        image_size: height and width in pixels of the images that it was trained on.
        patch: those of a patch.
        width: how many channels the first stage has; each later one has twice as many.
        depths: how many blocks each stage has.
        heads: how many heads attention has in each stage.
        window: how many tokens a window has on each side.
        mlp_ratio: how many times as many channels there are inside of the dense layers of a block.
        activation: between these; one of `parts.ACTIVATIONS`.
        epsilon: of the layer norms of blocks, and of the last.
        attention_bias: whether queries, keys and values have a bias.
        positions: whether positions are added to the patches, too.
        drop_path: by what share of samples the branches of the last block are left out in training; that
            of the others grows with depth.
    """

    image_size: tuple[int, int]
    patch: tuple[int, int]
    width: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    window: int = 7
    mlp_ratio: float = 4.0
    activation: str = "gelu"
    epsilon: float = 1e-5
    attention_bias: bool = True
    positions: bool = False
    drop_path: float = 0.0


def swin(config: Swin, images: keras.KerasTensor) -> keras.KerasTensor:
    """Add a Swin transformer to a graph, layer by layer.

    The layers are stock ones and are called stem_..., block1_..., block2_... and so on, through all
    stages; all paths run through what each block ends in, "block1_add2" and so on.

    Args:
        config: what it is made of.
        images: the symbolic images as the network takes them, of shape (batch, height, width, 3). Each
            side must be a multiple of the patch's.

    Returns:
        The last map, of shape (batch, rows, columns, channels).

    Raises:
        ValueError: the images' size fits no whole number of patches, or a map is smaller than a window.

    Example:
        >>> import keras
        >>> from keras_transfer.backbones.transformers.swin import Swin, swin
        >>> config = Swin((32, 32), (4, 4), width=8, depths=(1, 2), heads=(2, 2), window=4)
        >>> swin(config, keras.Input((32, 48, 3))).shape
        (None, 4, 6, 16)

    References:
        https://arxiv.org/abs/2103.14030
    """
    grid = grid_of(images.shape[1:3], config.patch, config.image_size)
    _check_maps(config, grid, images.shape[1:3])
    x = _stem(config, images, grid)
    index, total = 0, sum(config.depths)
    for stage, depth in enumerate(config.depths):
        for place in range(depth):
            name, rate = f"block{index + 1}", config.drop_path * index / max(total - 1, 1)
            if stage and not place:
                x = _merged(x, f"{name}_merge")
            x = _block(config, x, stage, shifted=place % 2 == 1, name=name, rate=rate)
            index += 1
    return parts.norm(config.epsilon, "norm")(x)


def _check_maps(config: Swin, grid: tuple[int, int], size: tuple[int, int]) -> None:
    """Raise if a map is smaller than a window: its table of biases has no other size."""
    maps = accumulate(config.depths[1:], lambda side, _: (side + 1) // 2, initial=min(grid))
    if min(maps) < config.window:
        least = ((config.window - 1) * 2 ** (len(config.depths) - 1) + 1) * max(config.patch)
        raise ValueError(
            f"image_size must be at least {least} on each side, so that no map is smaller than a "
            f"window of {config.window}. Received: image_size={size}"
        )


def _stem(config: Swin, images: keras.KerasTensor, grid: tuple[int, int]) -> keras.KerasTensor:
    """Add the patches' convolution, and positions where there are any."""
    x = keras.layers.Conv2D(config.width, config.patch, strides=config.patch, name="stem_patches")(
        images
    )
    x = parts.norm(_OTHER_EPSILON, "stem_norm")(x)
    if config.positions:
        table = parts.table(parts.one(x), (*grid, config.width), "stem_positions")
        x = keras.layers.Add(name="stem_add")([x, table])
    return x


def _merged(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """Add what makes one token of four neighbours, with twice as many channels."""
    rows, columns, channels = x.shape[1:]
    if rows % 2 or columns % 2:
        x = keras.layers.ZeroPadding2D(((0, rows % 2), (0, columns % 2)), name=f"{name}_room")(x)
    rows, columns = (rows + 1) // 2, (columns + 1) // 2
    x = keras.layers.Reshape((rows, 2, columns, 2, channels), name=f"{name}_fours")(x)
    # Those above one another stand side by side, as in the published weights.
    x = keras.layers.Permute((1, 3, 4, 2, 5), name=f"{name}_turned")(x)
    x = keras.layers.Reshape((rows, columns, 4 * channels), name=f"{name}_joined")(x)
    x = parts.norm(_OTHER_EPSILON, f"{name}_norm")(x)
    return parts.dense(2 * channels, f"{name}_reduction", bias=False)(x)


def _block(
    config: Swin, x: keras.KerasTensor, stage: int, *, shifted: bool, name: str, rate: float
) -> keras.KerasTensor:
    """Add a block: attention within windows and dense layers, each with a way around it."""
    y = parts.norm(config.epsilon, f"{name}_norm1")(x)
    # Where the map is no larger than a window, there is but one, or a row of them, and no shift.
    shift = config.window // 2 if shifted and min(x.shape[1:3]) > config.window else 0
    y = _attention(config, y, config.heads[stage], shift, f"{name}_attention")
    y = parts.dropped(y, rate, f"{name}_drop1")
    x = keras.layers.Add(name=f"{name}_add1")([x, y])
    y = parts.norm(config.epsilon, f"{name}_norm2")(x)
    y = parts.mlp(y, int(config.mlp_ratio * x.shape[-1]), config.activation, f"{name}_mlp")
    y = parts.dropped(y, rate, f"{name}_drop2")
    return keras.layers.Add(name=f"{name}_add2")([x, y])


def _attention(
    config: Swin, x: keras.KerasTensor, heads: int, shift: int, name: str
) -> keras.KerasTensor:
    """Add attention within windows: zeros below and on the right make these whole, then it shifts."""
    window, (rows, columns, channels) = config.window, x.shape[1:]
    below, right = -rows % window, -columns % window
    y = x
    if below or right:
        y = keras.layers.ZeroPadding2D(((0, below), (0, right)), name=f"{name}_room")(y)
    padded = rows + below, columns + right
    y = _rolled(y, -shift)
    y = _windows(y, window, f"{name}_windows")
    bias = _bias(y, heads, window, name)
    if shift:
        bias = keras.layers.Add(name=f"{name}_biases")([bias, _mask(y, padded, window, shift, name)])
    y = _within(config, y, bias, heads, name)
    y = keras.layers.Reshape(
        (padded[0] // window, padded[1] // window, window, window, channels), name=f"{name}_apart"
    )(y)
    y = keras.layers.Permute((1, 3, 2, 4, 5), name=f"{name}_rows")(y)
    y = keras.layers.Reshape((*padded, channels), name=f"{name}_map")(y)
    y = _rolled(y, shift)
    if below or right:
        y = keras.layers.Cropping2D(((0, below), (0, right)), name=f"{name}_cropped")(y)
    return y


def _rolled(x: keras.KerasTensor, by: int) -> keras.KerasTensor:
    if not by:
        return x
    return keras.ops.roll(keras.ops.roll(x, by, axis=1), by, axis=2)


def _windows(x: keras.KerasTensor, window: int, name: str) -> keras.KerasTensor:
    """Add what makes windows of a map: (batch, windows, tokens, channels)."""
    rows, columns, channels = x.shape[1:]
    rows, columns = rows // window, columns // window
    x = keras.layers.Reshape((rows, window, columns, window, channels), name=f"{name}_cut")(x)
    x = keras.layers.Permute((1, 3, 2, 4, 5), name=f"{name}_turned")(x)
    return keras.layers.Reshape((rows * columns, window**2, channels), name=name)(x)


def _within(
    config: Swin, x: keras.KerasTensor, bias: keras.KerasTensor, heads: int, name: str
) -> keras.KerasTensor:
    """Add attention within the windows (batch, windows, tokens, channels), with a bias for each pair."""
    windows, tokens, channels = x.shape[1:]

    def turned(part: str, order: tuple[int, ...]) -> keras.KerasTensor:
        found = parts.heads_of(x, heads, f"{name}_{part}", config.attention_bias)
        return keras.layers.Permute(order, name=f"{name}_{part}_turned")(found)

    query, key = turned("query", (1, 3, 2, 4)), turned("key", (1, 3, 4, 2))
    value = turned("value", (1, 3, 2, 4))
    scores = keras.ops.matmul(keras.ops.multiply(query, (channels // heads) ** -0.5), key)
    scores = keras.layers.Add(name=f"{name}_scores")([scores, bias])
    found = keras.ops.matmul(keras.layers.Softmax(name=f"{name}_softmax")(scores), value)
    found = keras.layers.Permute((1, 3, 2, 4), name=f"{name}_back")(found)
    found = keras.layers.Reshape((windows, tokens, channels), name=f"{name}_joined")(found)
    return parts.dense(channels, f"{name}_output")(found)


def _bias(x: keras.KerasTensor, heads: int, window: int, name: str) -> keras.KerasTensor:
    """Add the bias of each pair of tokens, by how far they are apart: (1, 1, heads, tokens, tokens)."""
    across = 2 * window - 1
    table = parts.table(parts.one(x), (across, across, heads), f"{name}_positions")
    place = np.arange(window)
    apart = (place[:, None] - place + window - 1).astype("int32")
    # Rows are taken first, then columns: two small tables of numbers in the file, not a large one.
    pairs = keras.ops.take(keras.ops.take(table, apart, axis=1), apart, axis=3)
    pairs = keras.layers.Permute((5, 1, 3, 2, 4), name=f"{name}_pairs")(pairs)
    return keras.layers.Reshape((1, heads, window**2, window**2), name=f"{name}_bias")(pairs)


def _mask(
    x: keras.KerasTensor, padded: tuple[int, int], window: int, shift: int, name: str
) -> keras.KerasTensor:
    """Add what keeps tokens apart that the shift brought together: (1, windows, 1, tokens, tokens)."""
    windows, tokens = x.shape[1:3]
    rows, columns = (
        (np.arange(size) >= size - window).astype(int) + (np.arange(size) >= size - shift)
        for size in padded
    )
    regions = (3 * rows[:, None] + columns).reshape(
        padded[0] // window, window, padded[1] // window, window
    )
    regions = regions.transpose(0, 2, 1, 3).reshape(1, windows, tokens, 1)
    region = keras.ops.multiply(parts.one(x), regions.astype("float32"))
    one = keras.layers.Reshape((windows, 1, tokens, 1), name=f"{name}_region")(region)
    other = keras.layers.Reshape((windows, 1, 1, tokens), name=f"{name}_other_region")(region)
    different = keras.ops.minimum(keras.ops.abs(keras.ops.subtract(one, other)), 1.0)
    return keras.ops.multiply(different, _APART)
