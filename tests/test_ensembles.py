"""The mean of predictions."""

import keras
import numpy as np
import pytest
from test_averages import X, network, sets_of

import keras_transfer as kt
from keras_transfer.models.ensembles import mean_of_predictions


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("from_logits", [False, True])
def test_mean_of_predictions(from_logits):
    model = network(None if from_logits else "softmax")
    sets = sets_of(model)
    before = model.get_weights()
    ensemble = mean_of_predictions(model, sets, from_logits=from_logits)
    expected = []
    for values in sets:
        model.set_weights(values)
        output = model.predict(X, verbose=0)
        expected.append(softmax(output) if from_logits else output)
    np.testing.assert_allclose(
        ensemble.predict(X, verbose=0), np.mean(expected, axis=0), rtol=1e-5, atol=1e-6
    )
    assert all(np.array_equal(*pair) for pair in zip(before, model.get_weights(), strict=True))


def test_an_ensemble_is_a_plain_model_with_class_names(tmp_path):
    model = kt.classifier(network_backbone(), 2, class_names=["ant", "bee"])
    sets = sets_of(model, 2)
    ensemble = mean_of_predictions(model, sets)
    ensemble.save(tmp_path / "ensemble.keras")
    loaded = keras.models.load_model(tmp_path / "ensemble.keras")
    assert kt.class_names(tmp_path / "ensemble.keras") == ["ant", "bee"]
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), ensemble.predict(X, verbose=0))


def network_backbone():
    return keras.Sequential([keras.Input((6, 6, 3)), keras.layers.Conv2D(2, 3)], name="small")


def test_an_ensemble_of_one_is_the_model():
    model = network()
    sets = sets_of(model, 1)
    ensemble = mean_of_predictions(model, sets)
    np.testing.assert_array_equal(ensemble.predict(X, verbose=0), model.predict(X, verbose=0))
