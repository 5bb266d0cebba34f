"""Snapshot ensembles: several models for the training of one."""

import os
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_transfer._lib.checks import checked_integer
from keras_transfer._lib.files import replacing, writable_directory
from keras_transfer.callbacks.learning_rates import WarmRestartsLR
from keras_transfer.models.averages import Weights, average_weights
from keras_transfer.models.ensembles import mean_of_predictions
from keras_transfer.rates.in_step import scheduled_optimizer


class SnapshotEnsemble(keras.callbacks.Callback):
    """Anneal the learning rate in cycles, keep the weights at the end of each, predict with all of them.

    The epochs of the fit are divided into equal cycles. In each the rate falls from that which the model
    was compiled with along half a cosine, as `keras_transfer.callbacks.WarmRestartsLR` does, batch by
    batch. Each end is a network of its own, as good as one trained at once, that makes other mistakes.

    Args:
        output: a folder for `cycle_1.npz` and so on, each of them what `model.get_weights()` gives,
            in order, and written whole or not at all. When training begins, files of the cycles to come
            are removed.
        cycles: how many cycles the epochs of the fit make.
        anneal: whether the rate is annealed here; False where something else does it, such as a schedule
            that the model was compiled with or that of a `keras_transfer.Phase`.
        first_epoch: the epoch with which the first cycle begins, from 0. Epochs count as in `fit`, so
            that one that goes on with `initial_epoch=k` stands in the cycle that epoch k belongs to. In
            a phase of `keras_transfer.fine_tune` it is the first epoch of the phase.

    Raises:
        ValueError, TypeError: an argument has no sensible meaning. When training begins: the epochs
            can't be divided, or the folder can't be written or has no room for the snapshots.
        OSError: a snapshot can't be written. The model keeps its weights, the earlier snapshots stay.

    Example:
        >>> import numpy as np, tempfile, keras_transfer as kt
        >>> model = kt.classifier("mobilenet", 2, image_size=32, weights=None)
        >>> table = kt.freeze_backbone(model)
        >>> model.compile("adam", "sparse_categorical_crossentropy")
        >>> snapshots = kt.callbacks.SnapshotEnsemble(tempfile.mkdtemp(), cycles=2)
        >>> x, y = np.zeros((4, 32, 32, 3)), np.arange(4) % 2
        >>> history = model.fit(x, y, epochs=2, callbacks=[snapshots], verbose=0)
        >>> [file.name for file in snapshots.files]
        ['cycle_1.npz', 'cycle_2.npz']
        >>> snapshots.ensemble(model).predict(x, verbose=0).shape
        (4, 2)

    References:
        Huang et al., "Snapshot Ensembles: Train 1, Get M for Free", 2017, section 3.
    """

    def __init__(
        self, output: str | os.PathLike[str], cycles: int, *, anneal: bool = True, first_epoch: int = 0
    ) -> None:
        super().__init__()
        self.output = Path(output)
        self.cycles = checked_integer("cycles", cycles, 1)
        self.first_epoch = checked_integer("first_epoch", first_epoch, 0)
        self.anneal = anneal
        self._epochs_per_cycle = 0  # of the fit that runs
        self._annealing = keras.callbacks.Callback()  # which does nothing

    @property
    def files(self) -> list[Path]:
        """The snapshots that exist, in the order of their cycles."""
        return [file for file in map(self._file, range(self.cycles)) if file.is_file()]

    def ensemble(
        self, model: keras.Model, *, last: int | None = None, from_logits: bool = False
    ) -> keras.Model:
        """Return one model that gives the mean probability of the snapshots.

        Args:
            model: the model that was trained, functional or sequential; it is not changed.
            last: how many of the last snapshots to take; by default all.
            from_logits: whether `model` gives logits, of which the softmax is taken before the mean.

        Returns:
            A plain Keras model, not compiled, which holds a copy of `model` for each snapshot.

        Raises:
            ValueError: there are not so many snapshots.
        """
        return mean_of_predictions(model, self._last(last), from_logits=from_logits)

    def averaged(
        self, model: keras.Model, data: Any = None, *, last: int | None = None, batch_size: int = 32
    ) -> keras.Model:
        """Return a copy of the model with the mean of the snapshots' weights.

        Args:
            model: the model that was trained, functional or sequential; it is not changed.
            data: training images without augmentation, on which the statistics of batch norm are
                measured anew, if it has trained: an array, (x, y) arrays, a `Loader` or another
                `PyDataset`, or an iterable of batches.
            last: how many of the last snapshots to take; by default all.
            batch_size: images a batch, for arrays.

        Returns:
            The copy, not compiled.

        Raises:
            ValueError: there are not so many snapshots, or no data where batch norm has trained.

        References:
            Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", 2018.
        """
        return average_weights(model, self._last(last), data=data, batch_size=batch_size)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        epochs = self.params["epochs"] - self.first_epoch
        if epochs <= 0 or epochs % self.cycles:
            raise ValueError(
                f"cycles must divide the {max(epochs, 0)} epochs from epoch {self.first_epoch} to the "
                f"end of the fit. Received: cycles={self.cycles}"
            )
        self._epochs_per_cycle = epochs // self.cycles
        self._annealing = self._begun_annealing() if self.anneal else keras.callbacks.Callback()
        folder = writable_directory(self.output, "output")
        size = sum(weight.nbytes for weight in self.model.get_weights())
        room = shutil.disk_usage(folder).free + sum(file.stat().st_size for file in self.files)
        if room < self.cycles * size:
            raise ValueError(
                f"output must have room for {self.cycles} snapshots of {size / 1e6:,.1f} MB. "
                f"Received: output={str(self.output)!r} with {room / 1e6:,.1f} MB"
            )

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._annealing.on_epoch_begin(epoch, logs)
        begun = (epoch - self.first_epoch) // self._epochs_per_cycle
        for cycle in range(max(begun, 0), self.cycles):
            self._file(cycle).unlink(missing_ok=True)  # of another run

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._annealing.on_train_batch_begin(batch, logs)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._annealing.on_train_end(logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._annealing.on_epoch_end(epoch, logs)
        cycle, rest = divmod(epoch + 1 - self.first_epoch, self._epochs_per_cycle)
        if rest or cycle < 1:
            return
        file = self._file(cycle - 1)
        # Not Keras' HDF5, which crashes the process some time after a write that found no room.
        weights = [
            np.asarray(w, "float32") if w.dtype.kind == "V" else w for w in self.model.get_weights()
        ]
        try:
            with replacing(file) as temporary:
                np.savez(temporary, *weights)
        except OSError as error:
            raise OSError(
                f"can't write the snapshot of cycle {cycle} of {self.cycles} to {file}: {error}. The "
                "model has the weights of that epoch, and the snapshots of earlier cycles stay"
            ) from error

    def _begun_annealing(self) -> WarmRestartsLR:
        rate = float(keras.ops.convert_to_numpy(scheduled_optimizer(self.model).learning_rate))
        epochs, first = self._epochs_per_cycle, self.first_epoch
        annealing = WarmRestartsLR(rate, cycle_epochs=epochs, first_epoch=first)
        annealing.set_params(self.params)
        annealing.set_model(self.model)
        annealing.on_train_begin()
        return annealing

    def _file(self, cycle: int) -> Path:
        return self.output / f"cycle_{cycle + 1}.npz"

    def _last(self, count: int | None) -> list[Weights]:
        files = self.files
        wanted = len(files) if count is None else checked_integer("last", count, 1)
        if not files or wanted > len(files):
            raise ValueError(
                f"output must hold {max(wanted, 1)} snapshots. "
                f"Received: {len(files)} in output={str(self.output)!r}"
            )
        sets = []
        for file in files[-wanted:]:
            with np.load(file) as arrays:
                sets.append([arrays[name] for name in arrays.files])
        return sets
