"""What a run holds in memory: in each phase its own, afterwards the model alone."""

import gc
import importlib
import weakref

import keras
import numpy as np
import pytest
from initial_weights import numpy_initial_weights
from tiny import tiny_backbone, tiny_task

import keras_transfer as kt
from keras_transfer.training.frozen_part import FrozenPart

BACKEND = keras.backend.backend()
TASK = tiny_task(24)
PHASES = [
    kt.Phase("head", 1, learning_rate=1e-2),
    kt.Phase("last block", 1, optimizer="sgd", train="from:block2_conv1", learning_rate=1e-3),
    kt.Phase("all", 1, train="all", learning_rate=1e-4),
]


@pytest.fixture(autouse=True)
def _quick_weights():
    with numpy_initial_weights():
        yield


def held():
    """Return how many bytes of tensors the backend holds, of TensorFlow the variables alone."""
    gc.collect()
    if BACKEND == "jax":
        # Several arrays may share one buffer.
        arrays = importlib.import_module("jax").live_arrays()
        return sum({array.unsafe_buffer_pointer(): array.nbytes for array in arrays}.values())
    if BACKEND == "torch":
        torch = importlib.import_module("torch")
        # Not those of a program that another test has exported, which have no memory.
        real = (torch.Tensor, torch.nn.Parameter)
        tensors = [each for each in gc.get_objects() if type(each) in real]
        return sum({each.data_ptr(): each.nbytes for each in tensors}.values())
    found = [each for each in gc.get_objects() if type(each).__name__ == "ResourceVariable"]
    return sum(each.dtype.size * each.shape.num_elements() for each in found)


def size(variables):
    return sum(keras.ops.convert_to_numpy(variable).nbytes for variable in variables)


class Watch(keras.callbacks.Callback):
    """Notes what a phase trains with, and what of it still lives when the next begins."""

    def __init__(self):
        super().__init__()
        self._refs, self.alive = {}, []

    def watch(self, phase, **things):
        self._refs |= {(phase, name): weakref.ref(thing) for name, thing in things.items()}

    def on_train_begin(self, logs=None):
        gc.collect()
        now = len(self.alive) + 1
        self.alive.append({(phase, name) for phase, name in self.names() if phase < now})

    def on_epoch_end(self, epoch, logs=None):
        step = self.model.train_function
        self.watch(
            len(self.alive),
            view=self.model,
            optimizer=self.model.optimizer,
            loss=self.model._compile_loss,
            step=step,
        )
        names = {name for phase, name in self.names() if phase == len(self.alive)}
        assert {"view", "optimizer", "loss", "step"} <= names  # what would be found if it leaked

    def on_train_end(self, logs=None):
        self.set_model(None)

    def names(self):
        return {key for key, ref in self._refs.items() if ref() is not None}


def network():
    return kt.classifier(tiny_backbone(), 3, seed=0)


def tuned(model, cache="auto", callbacks=()):
    return kt.fine_tune(
        model, TASK, TASK, PHASES, batch_size=8, cache=cache, callbacks=callbacks, verbose=0
    )


@pytest.mark.parametrize("cache", ["auto", False])
def test_nothing_of_a_phase_lives_in_the_next(cache, monkeypatch):
    watch, tail = Watch(), FrozenPart.tail
    cached = []

    def watched(self, *arguments):
        view, *data = tail(self, *arguments)
        cached.append(data[0] is not arguments[2])
        # TensorFlow keeps what was ever read as a PyDataset in the graph of the process, in plain Keras,
        # too; that of features has them in files.
        if cached[-1] and BACKEND != "tensorflow":
            watch.watch(len(cached), features=data[0])
        return view, *data

    monkeypatch.setattr(FrozenPart, "tail", watched)
    # As one of those that leave the frozen part as it is, and that see what `fit` trains.
    harmless = (Watch, keras.callbacks.History)
    monkeypatch.setattr("keras_transfer.training.frozen_part._HARMLESS", harmless)
    monkeypatch.setattr("keras_transfer.training.told._OF_A_FIT", (Watch,))
    model = network()
    tuned(model, cache, [watch, keras.callbacks.History()])  # the other one sees the whole model
    assert cached == ([True, True, False] if cache else [])
    # Adam's slots are for the third phase, too.
    assert watch.alive == [set(), {(1, "optimizer")}, set()]
    gc.collect()
    assert watch.names() == set()


def test_after_a_run_the_model_holds_all():
    before = held()
    model = network()
    for _ in range(2):
        tuned(model)
        held_by_it = size([*model.variables, *model.optimizer.variables, *model.metrics_variables])
        assert held() - before <= held_by_it
    model.fit(*TASK, verbose=0)
    here = held()
    kt.find_lr(model, TASK, num_steps=6, batch_size=8, verbose=0)
    assert held() <= here
    optimizer = weakref.ref(model.optimizer)
    kt.recompile(model)
    assert held() <= here
    assert optimizer() is None
    del model
    assert held() <= before


def test_building_a_cache_keeps_no_features(tmp_path):
    model = network()
    kt.freeze_backbone(model)
    prefix, _ = kt.split_model(model, kt.frozen_prefix(model))
    before = held()
    features = kt.FeatureCache(prefix, tmp_path).build(kt.Loader(TASK, 8), verbose=0)
    assert held() <= before
    assert np.isfinite(features.batch(0, 0)[0]).all()
