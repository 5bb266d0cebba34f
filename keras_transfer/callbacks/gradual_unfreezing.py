"""Gradual unfreezing inside one `fit`."""

from typing import Any

import keras

from keras_transfer._lib.checks import checked_integer
from keras_transfer.layers.freezing import (
    BatchNorm,
    restore_trainable_state,
    set_trainable,
    trainable_state,
)
from keras_transfer.layers.groups import Split, layer_groups
from keras_transfer.layers.selection import select
from keras_transfer.optimizers.recompiling import recompile_in_fit


class GradualUnfreezing(keras.callbacks.Callback):
    """Train the head first, and one group of layers more every few epochs, down to the input.

    The result is that of separate fits with `keras_transfer.freeze_to` and `keras_transfer.recompile`
    between them, bit for bit: what trained before goes on with its optimizer slots, what joins begins
    as in a fresh optimizer, with its own bias correction. Loss, metrics and history run through. Once
    all groups train, nothing changes any more.

    What trained before the fit doesn't matter. In a phase of `keras_transfer.fine_tune` the groups come
    in the place of `Phase(train=...)`, and `first_epoch` must be the number of the run's epoch that the
    phase begins with.

    Args:
        every: how many epochs pass before the next group joins.
        first_epoch: the epoch with which it begins, from 0. Epochs count as in `fit`, so that one that
            goes on with `initial_epoch=k` trains what epoch k of an unbroken one would.
        batch_norm: as in `keras_transfer.freeze_backbone`.
        split: groups of your own, as in `keras_transfer.layer_groups`.

    Raises:
        ValueError, TypeError: an argument has no sensible meaning. When training begins: the model has
            no groups, or an optimizer that `keras_transfer.recompile` can't take over; the model is as
            it was.

    Example:
        >>> import numpy as np, keras_transfer as kt
        >>> model = kt.classifier("mobilenet", 2, image_size=32, weights=None)
        >>> model.compile("adam", "sparse_categorical_crossentropy")
        >>> gradual = kt.callbacks.GradualUnfreezing()
        >>> x, y = np.zeros((4, 32, 32, 3)), np.arange(4) % 2
        >>> history = model.fit(x, y, epochs=2, callbacks=[gradual], verbose=0)
        >>> sorted({row.group for row in kt.trainable_table(model) if row.trainable})
        ['head', 'stage5']

    References:
        Howard and Ruder, "Universal Language Model Fine-tuning for Text Classification", 2018, section
        3.4, where a group is one layer and `every` is 1.
    """

    def __init__(
        self,
        every: int = 1,
        *,
        first_epoch: int = 0,
        batch_norm: BatchNorm = "freeze",
        split: Split | None = None,
    ) -> None:
        super().__init__()
        self.every = checked_integer("every", every, 1)
        self.first_epoch = checked_integer("first_epoch", first_epoch, 0)
        self.batch_norm, self.split = batch_norm, split
        self._open = 0  # how many groups train in this fit

    def groups_open(self, epoch: int) -> int:
        """Return how many groups train in an epoch, the head among them, if there are so many."""
        return 1 + max(epoch - self.first_epoch, 0) // self.every

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._open = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        model = self.model
        opened = min(self.groups_open(epoch), len(layer_groups(model, split=self.split)))
        if opened == self._open:
            return
        if model.optimizer is not None and not model.optimizer.built:
            # As `fit` does on other backends, for all that trained before it.
            model.optimizer.build(model.trainable_variables)
        state = trainable_state(model)
        try:
            set_trainable(model, select(model, -opened, split=self.split), self.batch_norm)
            # In the first epoch, too: what can't be taken over is an error before training.
            recompile_in_fit(model)
        except BaseException:
            restore_trainable_state(state)
            raise
        self._open = opened
