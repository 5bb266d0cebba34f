"""Convolutions by JAX on a processor, where there are quicker ways than XLA's own.

Of depthwise ones XLA's take 20 times as long, with gradients: it has no kernels for as many groups as
channels. Multiplying the whole map by one number of the kernel for each channel, shifted by its place,
is one loop that XLA fuses and vectorises, and there are only as many such maps to sum as the kernel has
places. Pointwise ones are products of matrices, for which XLA has better kernels than for convolutions:
with gradients they take half the time.
"""

from functools import partial

import jax
import jax.numpy as jnp

Pair = tuple[int, int]


def is_depthwise(maps: jax.Array, kernel: jax.Array) -> bool:
    """Return whether `depthwise` can take these: float32, of two dimensions, one output a channel."""
    return _computable(maps, kernel) and kernel.shape[3] == 1


def is_pointwise(maps: jax.Array, kernel: jax.Array) -> bool:
    """Return whether `pointwise` can take these: float32, of two dimensions, one group."""
    return _computable(maps, kernel) and kernel.shape[:3] == (1, 1, maps.shape[3])


def _computable(maps: jax.Array, kernel: jax.Array) -> bool:
    return maps.ndim == kernel.ndim == 4 and maps.dtype == kernel.dtype == jnp.float32


def pointwise(
    maps: jax.Array, kernel: jax.Array, strides: Pair, padding: str, dilation: Pair
) -> jax.Array:
    """Return the convolution of feature maps with a kernel of one place.

    Args:
        maps: of shape (batch, rows, columns, channels), in float32.
        kernel: of shape (1, 1, channels, outputs), in float32.
        strides: down and across.
        padding: as in `depthwise`; of one place there is nothing to pad.
        dilation: as in `depthwise`; nor to spread.
    """
    taken = maps[:, :: strides[0], :: strides[1]]
    # A product of two matrices: with more axes XLA transposes the gradient of the kernel.
    rows = taken.reshape(-1, taken.shape[3]) @ kernel[0, 0]
    return rows.reshape(*taken.shape[:3], kernel.shape[3])


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def depthwise(
    maps: jax.Array, kernel: jax.Array, strides: Pair, padding: str, dilation: Pair
) -> jax.Array:
    """Return the depthwise convolution of feature maps.

    Args:
        maps: of shape (batch, rows, columns, channels), in float32.
        kernel: of shape (rows, columns, channels, 1), in float32.
        strides: down and across.
        padding: "valid" or "same", as in Keras.
        dilation: down and across.
    """
    padded, starts, (down, across) = _windows(maps, kernel, strides, padding, dilation)
    total = jnp.zeros((), maps.dtype)
    for (row, column), weights in zip(starts, kernel.reshape(-1, kernel.shape[2]), strict=True):
        rows = slice(row, row + down, strides[0])
        total = total + padded[:, rows, column : column + across : strides[1]] * weights
    return total


def _windows(
    maps: jax.Array, kernel: jax.Array, strides: Pair, padding: str, dilation: Pair
) -> tuple[jax.Array, list[Pair], Pair]:
    """Return padded maps, where in them each place of the kernel begins, and how far it goes."""
    reach, pads = _extent(maps, kernel, strides, padding, dilation)
    padded = jnp.pad(maps, ((0, 0), *pads, (0, 0)))
    starts = [
        (row * dilation[0], column * dilation[1])
        for row in range(kernel.shape[0])
        for column in range(kernel.shape[1])
    ]
    down, across = (size - last + 1 for size, last in zip(padded.shape[1:3], reach, strict=True))
    return padded, starts, (down, across)


def _extent(
    maps: jax.Array, kernel: jax.Array, strides: Pair, padding: str, dilation: Pair
) -> tuple[list[int], list[Pair]]:
    """Return how far a kernel reaches down and across, and what maps are padded with there."""
    reach = [(size - 1) * far + 1 for size, far in zip(kernel.shape[:2], dilation, strict=True)]
    return reach, jax.lax.padtype_to_pads(maps.shape[1:3], reach, strides, padding.upper())


def _forward(
    maps: jax.Array, kernel: jax.Array, strides: Pair, padding: str, dilation: Pair
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return depthwise(maps, kernel, strides, padding, dilation), (maps, kernel)


def _backward(
    strides: Pair, padding: str, dilation: Pair, kept: tuple[jax.Array, jax.Array], change: jax.Array
) -> tuple[jax.Array, jax.Array]:
    maps, kernel = kept
    options = strides, padding, dilation
    return _of_maps(change, maps, kernel, *options), _of_kernel(change, maps, kernel, *options)


def _of_kernel(
    change: jax.Array, maps: jax.Array, kernel: jax.Array, strides: Pair, padding: str, dilation: Pair
) -> jax.Array:
    """Return the gradient of a kernel: for each place, the sum of the products of maps and change.

    One place and one image after the other: all at once, XLA needs five times as long for the sums, and
    to compile them.
    """
    padded, starts, size = _windows(maps, kernel, strides, padding, dilation)

    def of_place(start: jax.Array) -> jax.Array:
        def add(total: jax.Array, image: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            one, its_change = image
            window = jax.lax.dynamic_slice(one, (start[0], start[1], 0), (*size, one.shape[2]))
            return total + window[:: strides[0], :: strides[1]] * its_change, None

        zeros = jnp.zeros(change.shape[1:], change.dtype)
        return jax.lax.scan(add, zeros, (padded, change))[0].sum((0, 1))

    return jax.lax.map(of_place, jnp.array(starts)).reshape(kernel.shape)


def _of_maps(
    change: jax.Array, maps: jax.Array, kernel: jax.Array, strides: Pair, padding: str, dilation: Pair
) -> jax.Array:
    """Return the gradient of maps: a convolution, too, of the change with the kernel turned round.

    JAX would write a map for each place of the kernel, and then sum them.
    """
    reach, pads = _extent(maps, kernel, strides, padding, dilation)
    sides = [(0, 0, 0)]
    for axis in (0, 1):
        before, size, outputs = pads[axis][0], maps.shape[axis + 1], change.shape[axis + 1]
        after = size + before - (outputs - 1) * strides[axis] - 1
        sides.append((reach[axis] - 1 - before, after, strides[axis] - 1))
    wide = jax.lax.pad(change, jnp.zeros((), change.dtype), [*sides, (0, 0, 0)])
    return depthwise(wide, kernel[::-1, ::-1], (1, 1), "valid", dilation)


depthwise.defvjp(_forward, _backward)
