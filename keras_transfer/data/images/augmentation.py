"""What augmentation is, how stages of it go together, and the presets."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from keras_transfer._lib.checks import checked_choice
from keras_transfer.data.images.color import color_jitter, trivial_augment
from keras_transfer.data.images.geometry import (
    random_crop,
    random_flip,
    random_resized_crop,
    random_rotation,
)
from keras_transfer.data.images.mixing import mixup_or_cutmix
from keras_transfer.data.types import Batch, Box

Augmentation: TypeAlias = Callable[[np.ndarray, np.random.Generator], np.ndarray]
RandomCrop: TypeAlias = Callable[[int, int, np.random.Generator], Box]
Mixing: TypeAlias = Callable[[np.ndarray, np.ndarray, np.random.Generator], Batch]


@dataclass(frozen=True)
class Compose:
    """Augmentation in stages, for a `Loader`.

    First a part of the original image is chosen and resized to the loader's `image_size`; then the
    steps change it one after the other; then the batch is mixed. Called with an image, it does the
    steps only.

    The presets are such: "light" flips and shifts. "standard" takes a random part of the image (as in
    "Dive into Deep Learning", section 14.2), flips it, turns it by up to 15 degrees, and changes its
    colours a little (as the tutorials on Flowers-102 do). "strong" takes a random part, flips it,
    changes it by TrivialAugment, and mixes the batch by mixup or CutMix.

    Args:
        steps: functions `(image, rng) -> image` that keep the shape.
        crop: a function `(height, width, rng) -> (top, left, height, width)` of the part of an image
            that is taken, in pixels; None: as much around the centre as has the shape of the result.
        mix: a function `(images, labels, rng) -> (images, labels)` of a batch whose labels are one-hot
            rows; None doesn't mix. What is mixed depends on the batch size, too, and training on mixed
            images needs a loss for such rows.

    Raises:
        TypeError: a stage is no function.
        ValueError: a step is a `Compose` that crops or mixes.

    Example:
        >>> from functools import partial
        >>> import numpy as np, keras_transfer as kt
        >>> from keras_transfer.data import Compose, random_flip, random_resized_crop
        >>> gentle = Compose([random_flip], crop=partial(random_resized_crop, scale=(0.5, 1.0)))
        >>> x, y = np.zeros((6, 32, 32, 3), "uint8"), np.arange(6)
        >>> loader = kt.Loader((x, y), image_size=24, augmentation=gentle)
        >>> loader.batch(epoch=0, index=0)[0].shape
        (6, 24, 24, 3)
    """

    steps: tuple[Augmentation, ...] = ()
    crop: RandomCrop | None = None
    mix: Mixing | None = None

    def __post_init__(self) -> None:
        if isinstance(self.steps, str) or not isinstance(self.steps, Iterable):
            raise TypeError(f"steps must be a sequence of functions. Received: steps={self.steps!r}")
        object.__setattr__(self, "steps", tuple(self.steps))
        given: list[Any] = [*self.steps, *(s for s in (self.crop, self.mix) if s is not None)]
        wrong = [each for each in given if not callable(each)]
        if wrong:
            raise TypeError(
                f"steps, crop and mix must be functions. Received: {', '.join(map(repr, wrong))}"
            )
        lost = [s for s in self.steps if isinstance(s, Compose) and (s.crop or s.mix)]
        if lost:
            raise ValueError(
                "steps can't crop or mix; pass that to the outer Compose as crop=... and mix=... "
                f"Received: {lost[0]!r} as a step"
            )

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return what the steps make of an image."""
        for step in self.steps:
            image = step(image, rng)
        return image


PRESETS: dict[str, Augmentation] = {
    "light": Compose((random_flip, random_crop)),
    "standard": Compose((random_flip, random_rotation, color_jitter), crop=random_resized_crop),
    "strong": Compose((random_flip, trivial_augment), crop=random_resized_crop, mix=mixup_or_cutmix),
}


def resolve_augmentation(augmentation: str | Augmentation | None) -> Augmentation | None:
    """Return the function `(image, rng) -> image` that a preset's name, a function or None stands for.

    Raises:
        ValueError: there is no preset of this name.
        TypeError: it is neither a name nor callable nor None.
        ImportError: the preset needs OpenCV, which is not installed (extra `data`).
    """
    if augmentation is None or callable(augmentation):
        return augmentation
    if isinstance(augmentation, str):
        checked_choice("augmentation", augmentation, PRESETS, ", a callable or None")
        if augmentation != "light":
            import keras_transfer.data.images.transforms  # noqa: F401  fails now, not after hours, if it must
        return PRESETS[augmentation]
    raise TypeError(
        "augmentation must be the name of a preset, a callable (image, rng) -> image, or None. "
        f"Received: augmentation={augmentation!r}"
    )


def crops(augmentation: str | Augmentation | None) -> bool:
    """Whether an augmentation takes a part of each original image."""
    resolved = resolve_augmentation(augmentation)
    return isinstance(resolved, Compose) and resolved.crop is not None


def mixes(augmentation: str | Augmentation | None) -> bool:
    """Whether an augmentation mixes the images of a batch."""
    resolved = resolve_augmentation(augmentation)
    return isinstance(resolved, Compose) and resolved.mix is not None


def augmentation_name(augmentation: str | Augmentation | None) -> str | None:
    """Return what an augmentation is called in histories and tables."""
    if augmentation is None or isinstance(augmentation, str):
        return augmentation
    return getattr(augmentation, "__name__", type(augmentation).__name__)
