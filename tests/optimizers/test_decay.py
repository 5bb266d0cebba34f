"""Weight decay on kernels alone."""

import dataclasses

import keras
import numpy as np
import pytest
from tiny import tiny_task, tiny_transformer

import keras_transfer as kt
from keras_transfer.optimizers.decay import is_kernel


def network():
    keras.utils.set_random_seed(0)
    model = tiny_transformer(multi_head=True, blocks=1)
    # All else begins where decay moves nothing.
    model.set_weights([np.ones(w.shape) for w in model.get_weights()])
    return model


def shrunk(model):
    """Return the paths of the variables that are below one."""
    return [v.path for v in model.variables if np.all(keras.ops.convert_to_numpy(v) < 0.999)]


def stepped(model, optimizer):
    """Take a step without a gradient."""
    optimizer.build(model.trainable_variables)
    optimizer.apply([keras.ops.zeros(v.shape) for v in model.trainable_variables])
    return model


KERNELS = [
    "stem_patches/kernel",
    *(f"block1_attention/{part}/kernel" for part in ("query", "key", "value", "attention_output")),
    *("block1_dense1/kernel", "block1_dense2/kernel"),
    "predictions/kernel",
]


def test_is_kernel():
    assert [v.path for v in network().variables if is_kernel(v)] == KERNELS


@pytest.mark.parametrize("layerwise", [False, True])
def test_decay_kernels(layerwise):
    model, optimizer = network(), keras.optimizers.AdamW(0.1, weight_decay=0.5)
    if layerwise:
        optimizer = kt.optimizers.LayerwiseLR(optimizer, {"predictions/.*": 1.0})
    kt.optimizers.decay_kernels(optimizer, model)
    assert shrunk(stepped(model, optimizer)) == KERNELS
    with pytest.raises(ValueError, match="must be a new one"):
        kt.optimizers.decay_kernels(optimizer, model)


def test_what_was_left_out_stays_so():
    model, optimizer = network(), keras.optimizers.AdamW(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_list=[model.get_layer("predictions").kernel])
    kt.optimizers.decay_kernels(optimizer, model)
    assert shrunk(stepped(model, optimizer)) == KERNELS[:-1]


def test_behind_a_loss_scale():
    model, inner = network(), keras.optimizers.AdamW(1e-9, weight_decay=1e7)
    optimizer = keras.optimizers.LossScaleOptimizer(inner)
    kt.optimizers.decay_kernels(optimizer, model)
    model.compile(optimizer, "sparse_categorical_crossentropy")
    model.fit(*tiny_task(16), batch_size=16, verbose=0)
    assert shrunk(model) == KERNELS


PHASE = kt.Phase("p", 1, "all", 1e-9, optimizer=keras.optimizers.AdamW(weight_decay=1e7))


def tuned(*phases):
    model = network()
    kt.fine_tune(model, tiny_task(16), phases=phases, batch_size=16, verbose=0)
    return model


def test_of_a_phase():
    every = shrunk(tuned(PHASE))
    assert "stem_positions/embeddings" in every
    assert "block1_attention/query/bias" in every
    kernels = dataclasses.replace(PHASE, decays="kernels")
    # Also where an optimizer goes on, with multipliers, and where an average is taken.
    second = dataclasses.replace(kernels, multipliers={"predictions/.*": 1.0}, average=kt.EMA(0.5))
    assert shrunk(tuned(kernels, second)) == KERNELS


def test_of_adapters():
    """A is drawn and decays; B begins at zero."""
    factors = []
    look = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: factors.append(
            keras.ops.convert_to_numpy(look.model.get_layer("block1_dense1").lora_kernel_a)
        )
    )
    phase = dataclasses.replace(PHASE, train="lora:2", decays="kernels", callbacks=[look])
    model = tuned(phase)
    assert shrunk(model) == ["predictions/kernel"]
    begun = keras.ops.convert_to_numpy(phase.adapters(model, (0, 0, 1)).own[8])
    np.testing.assert_allclose(factors[0], 0.99 * begun, rtol=1e-3)


def test_refuses():
    with pytest.raises(ValueError, match="decays must be 'all' or 'kernels'"):
        kt.Phase("p", 1, decays="biases")
    with pytest.raises(ValueError, match="optimizer that has a weight decay"):
        kt.Phase("p", 1, decays="kernels")
    assert kt.Phase("p", 1, optimizer="adamw", decays="kernels").decays == "kernels"
