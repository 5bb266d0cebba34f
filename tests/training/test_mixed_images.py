"""Training on mixed images: labels become rows and back, and nobody needs to know."""

import dataclasses
from functools import partial

import keras
import numpy as np
import pytest
from initial_weights import numpy_initial_weights
from tiny import same, tiny_backbone, tiny_task, variables

import keras_transfer as kt
from keras_transfer.data import Compose, mixup, random_flip
from keras_transfer.layers.freezing import trainable_state

pytest.importorskip("cv2")
pytest.importorskip("PIL")

MIXUP = Compose([random_flip], mix=mixup)
HEAD = kt.Phase("head", 2, learning_rate=1e-2, optimizer="sgd")
ALL = kt.Phase("all", 1, train="all", learning_rate=1e-3, optimizer="sgd")


@pytest.fixture(autouse=True)
def _quick_weights():
    with numpy_initial_weights():
        yield


def rows(labels):
    return np.eye(3, dtype="float32")[labels]


def tune(model, train, validation=None, phases=(HEAD,), **arguments):
    arguments = {"batch_size": 8, "augmentation": "strong", "seed": 5, "verbose": 0, **arguments}
    return kt.fine_tune(model, train, validation, phases, **arguments)


def assert_evaluates(model, result, images, labels):
    """Check that `evaluate` takes the labels of the user and finds what the best epoch had."""
    scores = model.evaluate(images, labels, verbose=0, return_dict=True)
    assert scores["loss"] == pytest.approx(result.best.metrics["val_loss"], rel=1e-4)
    assert scores["accuracy"] == pytest.approx(result.best.metrics["val_accuracy"])


@pytest.mark.parametrize("kind", ["integers", "rows"])
def test_arrays_of_either_kind_of_labels(kind, model, task):
    (x, y), (x_val, y_val) = task, tiny_task(24, seed=1)
    y, y_val = (y, y_val) if kind == "integers" else (rows(y), rows(y_val))
    before = y.copy(), y_val.copy()
    result = tune(model, (x, y), (x_val, y_val), [HEAD, ALL])
    assert result.history.keys() == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert all(np.isfinite(values).all() for values in result.history.values())
    assert [phase.settings["augmentation"] for phase in result.phases] == ["strong", "strong"]
    assert_evaluates(model, result, x_val, y_val)
    assert len(model.evaluate(x, y, verbose=0)) == 2
    np.testing.assert_array_equal(y, before[0])
    np.testing.assert_array_equal(y_val, before[1])


def test_it_learns(model, task):
    validation = tiny_task(seed=1)
    phases = [dataclasses.replace(HEAD, epochs=8, learning_rate=3e-2, optimizer="adam")]
    result = tune(model, task, validation, phases, augmentation=MIXUP)
    assert result.best.metrics["val_accuracy"] > 0.8
    assert_evaluates(model, result, *validation)


def test_it_is_plain_keras_on_mixed_batches(model, task):
    twin = kt.classifier(tiny_backbone(), 3, seed=0)
    twin.set_weights(model.get_weights())
    result = tune(model, task, augmentation=MIXUP)

    loader = kt.Loader(task, 8, seed=5, augmentation=MIXUP, num_classes=3)
    kt.freeze_backbone(twin)
    logits = keras.Model(twin.inputs, twin.get_layer("predictions").output)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    logits.compile(keras.optimizers.SGD(1e-2), loss, metrics=["accuracy"])
    history = logits.fit(loader, epochs=2, verbose=0).history
    for ours, plain in zip(variables(model), variables(twin), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-7)
    for name in ("loss", "accuracy"):
        np.testing.assert_allclose(result.history[name], history[name], rtol=1e-5)


def test_loaders_keep_their_labels_and_their_epoch(model, task):
    train, validation = (
        kt.Loader(task, 8, augmentation="strong", num_classes=3),
        kt.Loader(tiny_task(24, 1), 8),
    )
    train.epoch = validation.epoch = 4
    result = tune(model, train, validation, augmentation=None)
    assert (train.epoch, validation.epoch, validation.one_hot) == (4, 4, False)
    assert result.phases[0].settings["augmentation"] == "strong"
    assert_evaluates(model, result, *tiny_task(24, 1))
    # The same data in rows, as the loader was told to give them.
    asked = train.replace(one_hot=True)
    result = tune(model, asked, validation, augmentation=None)
    assert_evaluates(model, result, tiny_task(24, 1)[0], rows(tiny_task(24, 1)[1]))


@pytest.mark.parametrize(
    ("base", "phases"),
    [
        (None, ("strong", None)),
        (None, (None, "strong")),
        ("strong", ("inherit", None)),
        ("strong", (None, "inherit")),
    ],
)
@pytest.mark.parametrize("cache", ["auto", False])
def test_phases_with_mixing_and_without(base, phases, cache, model, task):
    validation = tiny_task(24, seed=1)
    phases = [dataclasses.replace(HEAD, augmentation=augmentation) for augmentation in phases]
    result = tune(model, task, validation, phases, augmentation=base, cache=cache)
    named = [phase.augmentation if phase.augmentation != "inherit" else base for phase in phases]
    assert [phase.settings["augmentation"] for phase in result.phases] == named
    assert all(len(values) == 4 for values in result.history.values())
    assert np.isfinite(result.history["val_accuracy"]).all()
    assert_evaluates(model, result, *validation)


def test_a_phase_that_does_not_mix_is_as_without_the_others(model, task):
    twin = kt.classifier(tiny_backbone(), 3, seed=0)
    twin.set_weights(model.get_weights())
    plain = dataclasses.replace(HEAD, augmentation=None)
    mixed = dataclasses.replace(ALL, augmentation="strong")
    both = tune(model, task, phases=[plain, mixed], augmentation=None)
    alone = tune(twin, task, phases=[plain], augmentation=None)
    for name, values in alone.history.items():
        np.testing.assert_allclose(both.history[name][:2], values, rtol=1e-5)


def test_class_weights_are_those_of_the_larger_part(model, task):
    weights = {0: 1.0, 1: 5.0, 2: 0.5}
    still = dataclasses.replace(HEAD, epochs=1, learning_rate=1e-9)
    loader = kt.Loader(task, 8, seed=5, augmentation=MIXUP, num_classes=3)
    total = 0.0
    for index in range(loader.num_batches):
        images, labels = loader.batch(0, index)
        entropy = -(labels * np.log(model.predict_on_batch(images))).sum(axis=1)
        total += (entropy * [weights[label] for label in labels.argmax(axis=1)]).mean()
    result = tune(model, task, phases=[still], augmentation=MIXUP, class_weight=weights)
    assert result.history["loss"] == [pytest.approx(total / loader.num_batches, rel=1e-4)]


def test_a_learning_rate_is_found_on_mixed_images(model, task):
    rarely = Compose(mix=partial(mixup, alpha=0.05))  # the loss falls by more than its noise
    found = kt.Phase("head", 1, learning_rate="find")
    result = tune(model, task, tiny_task(24, seed=1), [found], augmentation=rarely)
    assert result.phases[0].settings["found"] > 0


class Batches(keras.utils.PyDataset):
    """Three batches of rows."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        x, y = tiny_task(24)
        return x[8 * index :][:8], rows(y)[8 * index :][:8]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"loss": "sparse_categorical_crossentropy"},
            "Received: sparse_categorical_crossentropy, for int",
        ),
        (
            {"loss": keras.losses.SparseCategoricalCrossentropy()},
            "Received: sparse_categorical_crossentropy,",
        ),
        (
            {"metrics": ["sparse_categorical_accuracy"]},
            "Received: sparse_categorical_accuracy, for integers",
        ),
        (
            {"metrics": ["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2, name="top")]},
            "Received: top, for integers",
        ),
        ({"validation": Batches()}, "validation must be arrays or a Loader .*Received: .* type Batches"),
    ],
)
def test_what_can_not_be_mixed_is_refused_and_nothing_changes(arguments, message, model, task):
    model.compile(optimizer="sgd", loss="mse")
    kt.freeze_backbone(model)
    before, flags = variables(model), trainable_state(model)
    phases = [HEAD, dataclasses.replace(ALL, augmentation="strong")]  # though it is the last that mixes
    with pytest.raises(ValueError, match=message):
        tune(model, task, phases=phases, augmentation=None, **arguments)
    assert same(variables(model), before)
    assert trainable_state(model) == flags
    assert np.isfinite(model.predict(task[0], verbose=0)).all()
    # Without mixing all of them will do.
    if "validation" not in arguments:
        tune(model, task, phases=[HEAD], augmentation=None, **arguments)


def test_a_sparse_loss_of_a_model_that_ends_in_neither_logits_nor_softmax(task):
    inputs = keras.Input((16, 16, 3))
    outputs = keras.layers.Dense(3, activation="sigmoid")(keras.layers.GlobalAveragePooling2D()(inputs))
    with pytest.raises(ValueError, match="Received: sparse_categorical_crossentropy, for integers"):
        tune(keras.Model(inputs, outputs), task, loss="sparse_categorical_crossentropy")


def test_rows_without_mixing_go_with_validation_of_other_kinds(model, task):
    train = kt.Loader(task, 8, num_classes=3, one_hot=True)
    for validation in (Batches(), tiny_task(24)):
        result = tune(model, train, validation, augmentation=None)
        assert np.isfinite(result.history["val_accuracy"]).all()
