import keras
import numpy as np
import pytest
from tiny import tiny_backbone

import keras_transfer as kt
from keras_transfer.training.objective import Objective

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3)).astype("float32")
LABELS = np.array([0, 1, 2, 0, 1, 2])


def fused(activation="softmax"):
    """Return a model whose last layer holds the activation."""
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.GlobalAveragePooling2D()(tiny_backbone()(inputs))
    return keras.Model(inputs, keras.layers.Dense(3, activation=activation, name="predictions")(x))


def separate(softmax):
    """Return a model that ends in a softmax layer."""
    inner = fused(None)
    return keras.Sequential([keras.Input((16, 16, 3)), *inner.layers[1:], softmax])


def functional_softmax():
    """Return a model that ends in the function instead of a layer."""
    inner = fused(None)
    return keras.Model(inner.inputs, keras.ops.softmax(inner.outputs[0]))


MODELS = {
    "classifier": lambda: kt.classifier(tiny_backbone(), 3),
    "fused": fused,
    "Softmax": lambda: separate(keras.layers.Softmax()),
    "Activation": lambda: separate(keras.layers.Activation("softmax")),
    "op": lambda: functional_softmax(),
    "nested": lambda: keras.Sequential([keras.Input((16, 16, 3)), fused()]),
    "fused, and nothing": lambda: keras.Sequential(
        [keras.Input((16, 16, 3)), *fused().layers[1:], keras.layers.Activation("linear")]
    ),
    "logits": lambda: fused(None),
}


@pytest.mark.parametrize("kind", MODELS)
def test_view_gives_logits(kind):
    model = MODELS[kind]()
    before = model.predict(IMAGES, verbose=0)
    objective = Objective(model)
    with objective.view(model) as view:
        logits = view.predict(IMAGES, verbose=0)
        assert {id(v) for v in view.trainable_variables} == {id(v) for v in model.trainable_variables}
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    softmax = shifted / shifted.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(before, logits if kind == "logits" else softmax, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(model.predict(IMAGES, verbose=0), before)


def test_a_model_that_first_predicts_meanwhile_gives_probabilities_afterwards():
    model = fused()
    with Objective(model).view(model):
        logits = model.predict(IMAGES, verbose=0)
        model.compile("sgd", "sparse_categorical_crossentropy")
        model.evaluate(IMAGES, LABELS, verbose=0)
    after = model.predict(IMAGES, verbose=0)
    np.testing.assert_allclose(after.sum(axis=1), 1.0, rtol=1e-5)
    assert np.abs(logits.sum(axis=1) - 1.0).max() > 1e-2
    expected = -np.log(after[np.arange(6), LABELS]).mean()
    assert model.evaluate(IMAGES, LABELS, verbose=0) == pytest.approx(expected, rel=1e-5)


def test_softmax_comes_back_after_an_error():
    model = fused()
    objective = Objective(model)
    with pytest.raises(RuntimeError), objective.view(model):
        raise RuntimeError
    assert model.layers[-1].activation is keras.activations.softmax


@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize("kind", ["classifier", "fused", "logits"])
def test_loss_and_metrics_agree_between_view_and_model(kind, one_hot):
    model = MODELS[kind]()
    labels = np.eye(3, dtype="float32")[LABELS] if one_hot else LABELS
    error = keras.metrics.MeanSquaredError(name="mse") if one_hot else "accuracy"
    objective = Objective(model, metrics=["accuracy", error] if one_hot else None)
    with objective.view(model) as view:
        objective.compile_view(view, keras.optimizers.SGD(0.0))
        trained = view.evaluate(IMAGES, labels, verbose=0, return_dict=True)
    objective.compile_model(model, keras.optimizers.SGD(0.0))
    whole = model.evaluate(IMAGES, labels, verbose=0, return_dict=True)
    assert trained == pytest.approx(whole, rel=1e-5)
    assert model.loss.__class__.__module__.startswith("keras.src.losses")


def test_a_loss_that_wants_logits_gets_them():
    model = fused()
    smooth = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    objective = Objective(model, loss=smooth)
    labels = np.eye(3, dtype="float32")[LABELS]
    with objective.view(model) as view:
        objective.compile_view(view, keras.optimizers.SGD(0.0))
        trained = view.evaluate(IMAGES, labels, verbose=0, return_dict=True)
    objective.compile_model(model, keras.optimizers.SGD(0.0))
    assert model.loss.get_config()["from_logits"] is False
    assert model.loss.get_config()["label_smoothing"] == 0.1
    assert trained == pytest.approx(
        model.evaluate(IMAGES, labels, verbose=0, return_dict=True), rel=1e-5
    )


def test_any_other_loss_gets_the_output():
    model = fused("sigmoid")
    objective = Objective(model, loss="mse", metrics=["mse"])
    with objective.view(model) as view:
        np.testing.assert_array_equal(view.predict(IMAGES, verbose=0), model.predict(IMAGES, verbose=0))


@pytest.mark.parametrize(
    "model",
    [
        lambda: fused("tanh"),
        lambda: separate(keras.layers.ReLU()),
        # The softmax layer of a nested model can't be left out.
        lambda: keras.Sequential([keras.Input((16, 16, 3)), separate(keras.layers.Softmax())]),
        # Nor can one that is an activation: on torch a layer must stay one there.
        lambda: fused(keras.layers.Softmax()),
        lambda: keras.Model(*[keras.Input((3,))] * 2),
    ],
)
def test_other_endings_are_refused(model):
    with pytest.raises(ValueError, match=r"end in a softmax or in logits.*Received: "):
        Objective(model())


@pytest.mark.parametrize(
    "loss",
    [
        "sparse_categorical_crossentropy",
        keras.losses.sparse_categorical_crossentropy,
        keras.losses.SparseCategoricalCrossentropy(),
    ],
)
def test_cross_entropies_are_taken_on_logits(loss):
    model = fused()
    objective = Objective(model, loss)
    with objective.view(model) as view:
        objective.compile_view(view, keras.optimizers.SGD(0.0))
        assert view.loss.get_config()["from_logits"] is True
    objective.compile_model(model, keras.optimizers.SGD(0.0))
    assert model.loss.get_config()["from_logits"] is False


def test_metrics_of_every_kind():
    model = fused()
    labels = np.eye(3, dtype="float32")[LABELS]
    metrics = ["mse", keras.metrics.mean_absolute_error, keras.metrics.AUC(name="auc")]
    objective = Objective(model, metrics=metrics)
    with objective.view(model) as view:
        objective.compile_view(view, keras.optimizers.SGD(0.0))
        trained = view.evaluate(IMAGES, labels, verbose=0, return_dict=True)
    objective.compile_model(model, keras.optimizers.SGD(0.0))
    whole = model.evaluate(IMAGES, labels, verbose=0, return_dict=True)
    assert trained == pytest.approx(whole, rel=1e-5)
    with pytest.raises(ValueError, match="acuracy"):
        Objective(model, metrics=["acuracy"])


def test_a_metric_begins_anew_in_each_phase():
    inputs = keras.Input((1, 1, 2))
    dense = keras.layers.Dense(2, activation="softmax", name="predictions")
    model = keras.Model(inputs, dense(keras.layers.Flatten()(inputs)))
    dense.bias.assign([9.0, 0.0])  # it says class 0 of everything
    x = np.zeros((4, 1, 1, 2), "float32")
    phases = [kt.Phase(name, 1, "all", learning_rate=1e-9) for name in ("first", "second")]
    metric = keras.metrics.SparseCategoricalAccuracy(name="right")
    data = (x, np.zeros(4, int)), (x, np.ones(4, int))
    result = kt.fine_tune(model, *data, phases, batch_size=2, metrics=[metric], verbose=0)
    assert result.history["right"] == [1.0, 1.0]
    assert result.history["val_right"] == [0.0, 0.0]
