"""Adapters by themselves: when they are in a model, and what stays when they go."""

import keras
import numpy as np
import pytest
from tiny import same, tiny_task, tiny_transformer, variables

from keras_transfer.layers.adapters import Adapters, adaptable, kinds_of


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    return tiny_transformer(multi_head=True)


def adapters_of(model, names=("block1_attention", "block2_dense1"), **options):
    layers = [part for name in names for part in adaptable(model.get_layer(name))]
    made = Adapters(model, layers, 2, 3.0, **options)
    rng = np.random.default_rng(0)
    for b in made.own[1::2]:
        b.assign(rng.normal(size=b.shape).astype("float32"))
    return made


def predicted(model):
    return keras.Model(model.inputs, model.outputs).predict(tiny_task(8)[0], verbose=0)


def test_they_begin_by_adding_nothing(model):
    before = predicted(model)
    adapters = Adapters(model, adaptable(model.get_layer("block1_attention")), 2, 3.0)
    with adapters.shown():
        np.testing.assert_array_equal(predicted(model), before)
    first, second = (
        adapters.own[0],
        Adapters(model, adaptable(model.get_layer("block1_attention")), 2).own[0],
    )
    np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (first, second)))


def test_fold_changes_no_prediction(model):
    adapters, before = adapters_of(model), predicted(model)
    with adapters.shown():
        shown = predicted(model)
        told = adapters.weights()
        adapters.fold()
        np.testing.assert_allclose(predicted(model), shown, atol=1e-6)
    np.testing.assert_allclose(predicted(model), shown, atol=1e-6)
    assert same(variables(model), told)
    assert np.abs(shown - before).max() > 1e-2


def test_without_fold_all_is_as_before(model):
    before = variables(model)
    paths, flags = [v.path for v in model.variables], [v.trainable for v in model.variables]
    with adapters_of(model).shown():
        assert len(model.variables) == len(before) + 10
    assert [v.path for v in model.variables] == paths
    assert [v.trainable for v in model.variables] == flags
    assert same(variables(model), before)
    assert "lora" not in str(model.get_config())


def test_hidden_for_a_while(model):
    adapters = adapters_of(model)
    with adapters.shown():
        shown, before = predicted(model), variables(model)
        order = [id(v) for v in model.trainable_variables]
        merged = adapters.weights()
        with adapters.hidden():
            assert "lora" not in str([v.path for v in model.variables])
            np.testing.assert_allclose(predicted(model), shown, atol=1e-6)
            with adapters.hidden():
                pass
            assert same(variables(model), merged)
        assert same(variables(model), before)
        assert [id(v) for v in model.trainable_variables] == order
        with adapters.hidden():
            model.get_layer("block2_dense1").set_weights([np.ones((16, 32)), np.zeros(32)])
        kernel = keras.ops.convert_to_numpy(model.get_layer("block2_dense1").kernel)
        np.testing.assert_array_equal(kernel, 1.0)
        adapters.put(told := adapters.weights())
        assert same(adapters.weights(), told)


def test_what_an_exception_leaves(model):
    before = variables(model)
    with pytest.raises(KeyError), adapters_of(model).shown() as _:
        raise KeyError
    adapters = adapters_of(model)
    with pytest.raises(KeyError), adapters.shown(), adapters.hidden():
        raise KeyError
    assert same(variables(model), before)


def test_none(model):
    adapters = Adapters(model)
    with adapters.shown(), adapters.hidden():
        assert [id(v) for v in adapters.variables] == [id(v) for v in model.variables]
        assert same(adapters.weights(), variables(model))
    assert adapters.own == []


def test_kinds_of(model):
    assert kinds_of([model.get_layer("stem_patches"), model.get_layer("pool")]) == "1 Conv2D"
    assert kinds_of([]) == "no weights"
