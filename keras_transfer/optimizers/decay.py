"""What weight decay acts on."""

import re

import keras

from keras_transfer._lib.keras_private.optimizer import EXCLUDED, variable_key
from keras_transfer.layers.graph import check_built

# Attention has biases of two axes, and Keras' own Embedding calls its table "embeddings".
_NO_KERNEL = re.compile(r"bias|embedding|token|position|pos_")


def is_kernel(variable: keras.Variable) -> bool:
    """Whether a variable is a kernel: no bias, scale or offset, and no table of positions or tokens.

    Kernels have two or more axes, as have the biases of attention layers and tables, which are known by
    their names: those with "bias", "embedding", "token", "position" or "pos_".
    """
    return len(variable.shape) > 1 and _NO_KERNEL.search(variable.name) is None


def decay_kernels(optimizer: keras.optimizers.Optimizer, model: keras.Model) -> None:
    """Let the weight decay of an optimizer act on the kernels of a model alone.

    Biases, scales and offsets of norms, and tables of positions and tokens are left out, as is usual
    for transformers. Kernels are variables of two or more axes whose name says nothing else; that of an
    `Embedding` layer counts as a table. What `exclude_from_weight_decay` has left out stays so.

    Args:
        optimizer: an optimizer that isn't built yet, such as `keras.optimizers.AdamW` or a
            `keras_transfer.optimizers.LayerwiseLR`. It is changed.
        model: the model that it will train, built.

    Raises:
        ValueError: the optimizer is built, or the model isn't.

    Example:
        >>> import keras, keras_transfer as kt
        >>> model = kt.classifier("mobilenet", 2, image_size=32, weights=None)
        >>> optimizer = keras.optimizers.AdamW(1e-3, weight_decay=0.05)
        >>> kt.optimizers.decay_kernels(optimizer, model)
        >>> model.compile(optimizer, "sparse_categorical_crossentropy")

    References:
        Bao et al., "BEiT: BERT Pre-Training of Image Transformers", 2021, and He et al., "Masked
        Autoencoders Are Scalable Vision Learners", 2021, in whose code it is so.
    """
    if optimizer.built:
        raise ValueError(
            "optimizer must be a new one: what decays is settled when it is built. "
            f"Received: a built {type(optimizer).__name__}"
        )
    check_built(model)
    inner = getattr(optimizer, "inner_optimizer", optimizer)  # behind a loss scale
    others = {variable_key(inner, v) for v in model.variables if not is_kernel(v)}
    keys = vars(inner).get(EXCLUDED[0]) or set()
    vars(inner)[EXCLUDED[0]] = keys | others
