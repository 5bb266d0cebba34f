"""Sequences of tokens, as vision transformers give them: which are patches, and a vector of them.

A transformer cuts the image into patches and makes a token of each. Some put tokens of their own before
these: one of the class, which is trained to stand for the whole image (DeiT has a second one, that of
its teacher), and registers, which stand for nothing.
"""

from collections.abc import Collection
from typing import NamedTuple

import keras

from keras_transfer.layers.head import free_name

TOKEN, AVERAGE, BOTH = "token", "avg", "token+avg"
_LAST = "channels_last"  # whatever Keras is set to for images
OF_TOKENS = (TOKEN, AVERAGE, BOTH, "max", "flatten")


class Tokens(NamedTuple):
    """What stands in front of the patches in a sequence of tokens.

    Attributes:
        leading: how many tokens stand there.
        of_class: how many of these, from the first on, stand for the whole image.
    """

    leading: int
    of_class: int


NO_TOKENS = Tokens(0, 0)


def tokens_in(features: keras.KerasTensor, image: keras.KerasTensor) -> Tokens:
    """Return what most likely stands in front of the patches, if nobody tells.

    The patches are taken to be the largest square ones whose sides divide those of the image, and which
    are no more than there are tokens. Of what is left over, the first one is taken to be of the class.

    Args:
        features: of shape (batch, tokens, channels).
        image: of shape (batch, height, width, channels).
    """
    count, (height, width) = features.shape[1], image.shape[1:3]
    if None in (count, height, width):
        return NO_TOKENS
    sides = [side for side in range(1, height + 1) if height % side == 0 and width % side == 0]
    patches = [height * width // side**2 for side in sides]
    leading = count - max((each for each in patches if each <= count), default=count)
    return Tokens(leading, min(leading, 1))


def tokens_of(features: keras.KerasTensor, model: keras.Model) -> Tokens:
    """Return what most likely stands in front of the patches, if a model makes tokens of images."""
    image = model.inputs[0]
    are_tokens = len(features.shape) == 3 and len(image.shape) == 4
    return tokens_in(features, image) if are_tokens else NO_TOKENS


def vector_of_tokens(
    features: keras.KerasTensor,
    tokens: Tokens,
    pooling: str | None,
    prefix: str = "",
    taken: Collection[str] = (),
) -> keras.KerasTensor:
    """Return a vector for each image, of stock Keras layers.

    Args:
        features: of shape (batch, tokens, channels).
        tokens: what stands in front of the patches.
        pooling: "token": the tokens of the class, side by side. "avg" or "max": over the patches.
            "token+avg": both side by side. "flatten": all tokens. None: "token" where there is one of
            the class, else "avg".
        prefix: what the layers' names begin with.
        taken: names that none of them is to have.

    Raises:
        ValueError: there is no token of the class, or not a fixed number of tokens.
    """
    count, layers = features.shape[1], keras.layers

    def named(name: str) -> str:
        return free_name(f"{prefix}{name}", taken)

    if pooling is None:
        pooling = TOKEN if tokens.of_class else AVERAGE
    if pooling in (TOKEN, BOTH) and not tokens.of_class:
        raise ValueError(
            "pooling must be 'avg', 'max' or 'flatten' where no token stands for the whole image. "
            f"Received: pooling={pooling!r}, and features {features.shape}, all of patches"
        )
    if pooling == "flatten":
        if count is None:
            raise ValueError(
                "pooling='flatten' needs images of one size; pass image_size=(height, width). "
                f"Received: a backbone whose output has shape {features.shape}"
            )
        return layers.Flatten(name=named("flatten"))(features)
    found: list[keras.KerasTensor] = []
    if pooling in (TOKEN, BOTH):
        cut = layers.Cropping1D((0, count - tokens.of_class), name=named("class_token"))
        found.append(layers.Flatten(name=named("token"))(cut(features)))
    if pooling != TOKEN:
        patches = features
        if tokens.leading:
            patches = layers.Cropping1D((tokens.leading, 0), name=named("patches"))(features)
        if pooling == "max":
            pool = layers.GlobalMaxPooling1D(_LAST, name=named("max_pool"))
        else:
            pool = layers.GlobalAveragePooling1D(_LAST, name=named("avg_pool"))
        found.append(pool(patches))
    return layers.Concatenate(name=named("token_and_avg"))(found) if len(found) > 1 else found[0]
