"""Convolutions on JAX, beside sums that are written out, in float64, and beside Keras' own."""

import keras
import numpy as np
import pytest

import keras_transfer as kt
from keras_transfer._lib.attributes import attributes
from keras_transfer._lib.keras_private.convolutions import quick_convolutions

pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="of JAX")
OPTIONS = [
    {},
    {"padding": "same"},
    {"strides": 2},
    {"strides": 2, "padding": "same"},
    {"strides": (3, 2), "padding": "same"},
    {"dilation_rate": 2},
    {"dilation_rate": (2, 1), "padding": "same"},
    {"strides": 7},  # past the whole map
]


def given(kernel=(3, 2)):
    rng = np.random.default_rng(0)
    maps, weights = rng.normal(size=(3, 8, 7, 4)), rng.normal(size=(*kernel, 4, 1))
    return maps.astype("float32"), weights.astype("float32")


def written_out(maps, weights, strides=1, padding="valid", dilation_rate=1):
    """Return the convolution in float64, and its linear map from weights."""
    strides, spread = np.broadcast_to(strides, 2), np.broadcast_to(dilation_rate, 2)
    size, kernel = np.array(maps.shape[1:3]), np.array(weights.shape[:2])
    reach = (kernel - 1) * spread + 1
    if padding == "same":
        count = -(-size // strides)
        missing = np.maximum((count - 1) * strides + reach - size, 0)
        sides = [(each // 2, each - each // 2) for each in missing]
        maps = np.pad(maps, ((0, 0), *sides, (0, 0)))
    else:
        count = (size - reach) // strides + 1
    windows = np.zeros((*weights.shape[:2], len(maps), *count, maps.shape[3]))
    for place in np.ndindex(*weights.shape[:2]):
        for row, column in np.ndindex(*count):
            y, x = np.array(place) * spread + (row, column) * strides
            windows[place][:, row, column] = maps[:, y, x]
    return np.einsum("ijbhwc,ijc->bhwc", windows, weights[..., 0], dtype="float64"), windows


def gradients(maps, weights, **options):
    """Return the gradients of the sum of squares, by the definition of one at each number."""
    outputs, windows = written_out(maps, weights, **options)
    of_weights = 2 * np.einsum("ijbhwc,bhwc->ijc", windows, outputs)[..., None]
    of_maps = np.zeros(maps.shape)
    for place in np.ndindex(*maps.shape):
        unit = np.zeros(maps.shape)
        unit[place] = 1
        of_maps[place] = 2 * (written_out(unit, weights, **options)[0] * outputs).sum()
    return of_maps, of_weights


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_output_and_gradients_are_those_written_out(options):
    import jax

    maps, weights = given()

    def loss(maps, weights):
        outputs = keras.ops.depthwise_conv(maps, weights, **options)
        return (outputs**2).sum(), outputs

    with quick_convolutions():
        found = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(maps, weights)
    np.testing.assert_allclose(found[1], written_out(maps, weights, **options)[0], rtol=1e-5, atol=1e-5)
    for one, other in zip(found[0], gradients(maps, weights, **options), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-4)


def test_a_kernel_that_is_larger_than_the_maps_gives_nothing():
    maps, weights = given((9, 2))
    with quick_convolutions():
        assert keras.ops.depthwise_conv(maps, weights).shape == (3, 0, 6, 4)


@pytest.mark.parametrize(
    ("maps", "weights", "options"),
    [
        (np.ones((2, 6, 6, 4), "float32"), np.ones((3, 3, 4, 2), "float32"), {}),
        (np.ones((2, 6, 6, 4), "float16"), np.ones((3, 3, 4, 1), "float16"), {}),
        (np.ones((2, 4, 6, 6), "float32"), np.ones((3, 3, 4, 1), "float32"), "channels_first"),
        (np.ones((2, 6, 4), "float32"), np.ones((3, 4, 1), "float32"), {}),
    ],
    ids=["two outputs a channel", "float16", "channels first", "one dimension"],
)
def test_what_it_does_not_compute_keras_does(maps, weights, options):
    from keras_transfer._lib import jax_convolutions

    options = {"data_format": options} if options else {}
    usual = keras.ops.depthwise_conv(maps, weights, **options)
    with attributes(jax_convolutions, depthwise=None), quick_convolutions():
        quick = keras.ops.depthwise_conv(maps, weights, **options)
    np.testing.assert_array_equal(quick, usual)


def test_an_accelerator_has_kernels_of_its_own(monkeypatch):
    import jax
    from keras.src.backend.jax import nn

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    usual = nn.depthwise_conv
    with quick_convolutions():
        assert nn.depthwise_conv is usual


def test_separable_convolutions_take_both_and_keras_has_its_own_again():
    from keras.src.backend.jax import nn

    from keras_transfer._lib import jax_convolutions

    calls, usual = [], (nn.conv, nn.depthwise_conv)

    def counted(name):
        function = getattr(jax_convolutions, name)

        def call(*args):
            calls.append(name)
            return function(*args)

        return {name: call}

    maps, weights = given()
    products = counted("depthwise") | counted("pointwise")
    with attributes(jax_convolutions, **products), quick_convolutions(), quick_convolutions():
        keras.ops.separable_conv(maps, weights, np.ones((1, 1, 4, 5), "float32"))
    assert calls == ["depthwise", "pointwise"]
    assert (nn.conv, nn.depthwise_conv) == usual


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("strides", [1, 2, (3, 1), 9])
def test_pointwise_convolutions_are_products_of_matrices(strides, padding):
    maps, weights = given()[0], np.random.default_rng(1).normal(size=(1, 1, 4, 6)).astype("float32")
    down, across = np.broadcast_to(strides, 2)
    expected = np.einsum("bhwc,cd->bhwd", maps[:, ::down, ::across], weights[0, 0], dtype="float64")
    with quick_convolutions():
        found = keras.ops.conv(maps, weights, strides, padding)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found, keras.ops.conv(maps, weights, strides, padding), atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "kernel", "options"),
    [
        ((2, 6, 6, 4), (1, 1, 2, 6), {}),  # of two groups
        ((2, 6, 6, 4), (1, 2, 4, 6), {}),
        ((2, 4, 6, 6), (1, 1, 4, 6), {"data_format": "channels_first"}),
        ((2, 6, 4), (1, 4, 6), {}),
    ],
    ids=str,
)
def test_what_is_not_pointwise_is_keras_own(shape, kernel, options):
    from keras_transfer._lib import jax_convolutions

    maps, weights = np.ones(shape, "float32"), np.ones(kernel, "float32")
    usual = keras.ops.conv(maps, weights, **options)
    with attributes(jax_convolutions, pointwise=None), quick_convolutions():
        np.testing.assert_array_equal(keras.ops.conv(maps, weights, **options), usual)


def test_channels_first_by_the_configuration_is_keras_own():
    from keras_transfer._lib import jax_convolutions

    maps, before = np.ones((2, 4, 4, 4), "float32"), keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    try:
        with attributes(jax_convolutions, pointwise=None, depthwise=None), quick_convolutions():
            keras.ops.conv(maps, np.ones((1, 1, 4, 4), "float32"))
            keras.ops.depthwise_conv(maps, np.ones((2, 2, 4, 1), "float32"))
    finally:
        keras.config.set_image_data_format(before)


@pytest.mark.parametrize(("runtime", "quick"), [("folded", True), ("keras", False)])
def test_a_folded_copy_takes_them_and_the_network_itself_does_not(runtime, quick, tmp_path):
    from keras_transfer._lib import jax_convolutions

    inputs = keras.Input((6, 6, 4))
    x = keras.layers.BatchNormalization()(keras.layers.DepthwiseConv2D(3)(inputs))
    model, calls, usual = keras.Model(inputs, x), [], jax_convolutions.depthwise

    def counted(*args):
        calls.append(args)
        return usual(*args)

    x = np.ones((3, 6, 6, 4), "float32")
    with attributes(jax_convolutions, depthwise=counted):
        features = kt.FeatureCache(model, tmp_path, runtime=runtime).build(kt.Loader((x, [0, 1, 2]), 2))
        features.close()
    assert bool(calls) == quick
