"""Random changes of colour, and of colour and shape together."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

_BINS = 30  # strengths, from 0 to this


def color_jitter(
    image: np.ndarray,
    rng: np.random.Generator,
    brightness: float = 0.2,
    contrast: float = 0.2,
    saturation: float = 0.2,
    hue: float = 0.02,
) -> np.ndarray:
    """Change brightness, contrast, saturation and hue at random, in random order.

    Args:
        image: an RGB image of uint8, of shape (height, width, 3).
        rng: where the randomness comes from.
        brightness: how far the factor may be from 1.
        contrast: how far the factor may be from 1.
        saturation: how far the factor may be from 1.
        hue: how far the colours may turn, as a fraction of the colour circle, up to 0.5.

    Returns:
        An image of the same shape and dtype.

    Raises:
        TypeError: the image is not an RGB image of uint8.
        ImportError: OpenCV is not installed (extra `data`).

    Example:
        >>> import numpy as np
        >>> from keras_transfer.data import color_jitter
        >>> color_jitter(np.full((8, 8, 3), 99, "uint8"), np.random.default_rng(0)).dtype
        dtype('uint8')

    References:
        Howard, "Some Improvements on Deep Convolutional Neural Network Based Image Classification",
        2013, section 2.
    """
    from keras_transfer.data.images import transforms

    transforms.check_rgb(image)
    changes = (
        (transforms.brightness, max(0.0, 1.0 - brightness), 1.0 + brightness),
        (transforms.contrast, max(0.0, 1.0 - contrast), 1.0 + contrast),
        (transforms.saturation, max(0.0, 1.0 - saturation), 1.0 + saturation),
        (transforms.hue, -hue, hue),
    )
    for place in rng.permutation(len(changes)):
        change, low, high = changes[place]
        if low < high:
            image = change(image, rng.uniform(low, high))
    return image


def rand_augment(
    image: np.ndarray, rng: np.random.Generator, num_ops: int = 2, magnitude: int = 9
) -> np.ndarray:
    """Apply some of fourteen changes of colour and shape, at one strength.

    Args:
        image: an RGB image of uint8, of shape (height, width, 3).
        rng: where the randomness comes from.
        num_ops: how many changes, one after the other.
        magnitude: their strength, 0 to 30.

    Returns:
        An image of the same shape and dtype.

    Raises:
        TypeError: the image is not an RGB image of uint8.
        ImportError: OpenCV is not installed (extra `data`).

    Example:
        >>> import numpy as np
        >>> from keras_transfer.data import rand_augment
        >>> rand_augment(np.full((8, 8, 3), 99, "uint8"), np.random.default_rng(0)).dtype
        dtype('uint8')

    References:
        Cubuk et al., "RandAugment: Practical Automated Data Augmentation with a Reduced Search Space",
        2020. What moves out of the image is filled by mirroring, not with grey.
    """
    table = _table(image)
    for _ in range(num_ops):
        operation = table[rng.integers(len(table))]
        image = operation.apply(image, rng, operation.usual, magnitude / _BINS)
    return image


def trivial_augment(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Apply one of fourteen changes of colour and shape, at a random strength.

    Nothing to tune, and as good as policies that were searched for.

    Args:
        image: an RGB image of uint8, of shape (height, width, 3).
        rng: where the randomness comes from.

    Returns:
        An image of the same shape and dtype.

    Raises:
        TypeError: the image is not an RGB image of uint8.
        ImportError: OpenCV is not installed (extra `data`).

    Example:
        >>> import numpy as np
        >>> from keras_transfer.data import trivial_augment
        >>> trivial_augment(np.full((8, 8, 3), 99, "uint8"), np.random.default_rng(0)).dtype
        dtype('uint8')

    References:
        Müller and Hutter, "TrivialAugment: Tuning-Free Yet State-of-the-Art Data Augmentation", 2021
        (the wide space). What moves out of the image is filled by mirroring, not with grey.
    """
    table = _table(image)
    operation = table[rng.integers(len(table))]
    return operation.apply(image, rng, operation.wide, rng.integers(_BINS + 1) / _BINS)


@dataclass(frozen=True)
class _Operation:
    """A change of an image and its strengths, from none to the strongest.

    Attributes:
        change: the function of the image and a strength, or of the image alone.
        usual: the strengths of RandAugment, or None.
        wide: those of TrivialAugment.
        signed: whether the strength has either sign.
        origin: what is added to the strength.
    """

    change: Callable[..., np.ndarray]
    usual: tuple[float, float] | None = None
    wide: tuple[float, float] | None = None
    signed: bool = False
    origin: float = 0.0

    def apply(
        self,
        image: np.ndarray,
        rng: np.random.Generator,
        strengths: tuple[float, float] | None,
        fraction: float,
    ) -> np.ndarray:
        """Change an image by a strength between none and the strongest."""
        if strengths is None:
            return self.change(image)
        strength = strengths[0] + fraction * (strengths[1] - strengths[0])
        if self.signed and rng.random() < 0.5:
            strength = -strength
        return self.change(image, self.origin + strength)


def _table(image: np.ndarray) -> tuple[_Operation, ...]:
    """Return the changes to choose from, which are for images of one kind."""
    from keras_transfer.data.images import transforms as t

    t.check_rgb(image)

    factors = (t.brightness, t.saturation, t.contrast, t.sharpness)
    return (
        _Operation(lambda image: image),
        _Operation(t.shear_x, (0, 0.3), (0, 0.99), signed=True),
        _Operation(t.shear_y, (0, 0.3), (0, 0.99), signed=True),
        _Operation(t.translate_x, (0, 150 / 331), (0, 32 / 224), signed=True),
        _Operation(t.translate_y, (0, 150 / 331), (0, 32 / 224), signed=True),
        _Operation(t.rotate, (0, 30), (0, 135), signed=True),
        *(_Operation(change, (0, 0.9), (0, 0.99), signed=True, origin=1.0) for change in factors),
        _Operation(lambda image, bits: t.posterize(image, round(bits)), (8, 4), (8, 2)),
        _Operation(t.solarize, (256, 0), (256, 0)),
        _Operation(t.autocontrast),
        _Operation(t.equalize),
    )
