"""The private names of Keras, one by one: a release that moves one fails in the test named after it."""

import hashlib
import importlib.util
import inspect
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
from keras import layers

import keras_transfer as kt
from keras_transfer._lib.attributes import attributes
from keras_transfer._lib.keras_private import convolutions, downloads, graph, lora, process, trainer
from keras_transfer._lib.keras_private import layers as private_layers
from keras_transfer._lib.keras_private import optimizer as optimizers
from keras_transfer._lib.keras_private import variables as begun


@pytest.fixture
def model():
    """A branch that joins, nothing nested."""
    inputs = keras.Input((4,))
    left, right = layers.Dense(3, name="left")(inputs), layers.Dense(3, name="right")(inputs)
    return keras.Model(inputs, layers.Add(name="join")([left, right]))


@pytest.fixture
def optimizer():
    """Adam after one step on two variables."""
    adam = keras.optimizers.Adam(0.25)
    variables = [
        keras.Variable(np.zeros(2), dtype="float32"),
        keras.Variable(np.zeros(3), dtype="float32"),
    ]
    adam.apply([keras.ops.ones(2), keras.ops.ones(3)], variables)
    return adam, variables


PRIVATE = (lora, convolutions, downloads, graph, optimizers, private_layers, process, trainer, begun)


def names(nodes):
    return [node.operation.name for node in nodes]


def test_every_function_has_a_test():
    functions = {
        name
        for module in PRIVATE
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and name[0] != "_"
    }
    tests = [*globals(), *vars(TestLoadedAtOnce)]
    tested = {name.removeprefix("test_").split("__")[0] for name in tests if "test_" in name}
    assert functions <= tested


def test_layer_scale(tmp_path):
    """A file with it opens without an object of the package's."""
    model = keras.Sequential([keras.Input((4, 3)), private_layers.layer_scale(3, 0.5, name="scale")])
    model.get_layer("scale").set_weights([np.array([1.0, -2.0, 3.0])])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    ones = np.ones((2, 4, 3), "float32")
    np.testing.assert_array_equal(loaded.predict_on_batch(ones), ones * [1.0, -2.0, 3.0])


def maps_network():
    """Everything that Keras copies maps for, and the weights of a training step."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((12, 12, 3))
    x = layers.Conv2D(8, 3, strides=2, padding="same")(inputs)
    x = layers.MaxPooling2D(2, 1, "same")(layers.BatchNormalization()(x))
    x = layers.SeparableConv2D(6, 3, padding="same")(layers.AveragePooling2D(2)(x))
    x = layers.DepthwiseConv2D(2, dilation_rate=2)(x)
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    model.compile("sgd", "mse", jit_compile=False)
    return model


def test_quick_convolutions():
    """A training step gives the same, on torch in bits; what comes after sees what was there."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 12, 12, 3)).astype("float32"), rng.normal(size=(5, 2)).astype("float32")
    usual, quick = maps_network(), maps_network()
    usual.train_on_batch(x, y)
    with convolutions.quick_convolutions():
        quick.train_on_batch(x, y)
    for one, other in zip(quick.get_weights(), usual.get_weights(), strict=True):
        if keras.backend.backend() == "jax":
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
        else:
            np.testing.assert_array_equal(one, other)
    if keras.backend.backend() != "torch":  # JAX: test_jax_convolutions.py
        return
    from keras.src.backend.torch import nn

    usual, copied, pointers = nn.conv, nn._transpose_spatial_inputs, []
    maps, kernel = keras.ops.ones((1, 5, 4, 3)), keras.ops.ones((2, 2, 3, 3))
    convert = nn._maybe_convert_to_channels_last

    def watched(tensor):
        pointers.append(tensor.data_ptr())
        return convert(tensor)

    with attributes(nn, _maybe_convert_to_channels_last=watched):
        keras.ops.conv(maps, kernel)
        assert pointers[0] != maps.data_ptr()  # else there is nothing left to do for us
        with convolutions.quick_convolutions(), convolutions.quick_convolutions():
            keras.ops.conv(maps, kernel)
    assert pointers[2] == maps.data_ptr()
    assert (nn.conv, nn._transpose_spatial_inputs) == (usual, copied)


def test_home(monkeypatch, tmp_path):
    monkeypatch.setattr(keras.src.backend.config, "_KERAS_DIR", str(tmp_path))
    assert process.home() == tmp_path
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "x.bin").write_bytes(b"contents")
    found = keras.utils.get_file("x.bin", "http://example.invalid/x.bin")
    assert found == str(process.home() / "datasets" / "x.bin")


def test_fetched_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(keras.src.backend.config, "_KERAS_DIR", str(tmp_path))
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "x.bin").write_bytes(b"contents")
    found = keras.utils.get_file("x.bin", "http://example.invalid/x.bin")
    assert found == str(downloads.fetched_folder() / "datasets" / "x.bin")
    # As of a home that can't be written; root may write anywhere.
    monkeypatch.setattr("os.access", lambda path, mode: False)
    wanted = downloads.fetched_folder() / "models"

    def fetch(url, path, *rest):
        raise KeyError(path)  # which goes through

    monkeypatch.setattr(keras.src.utils.file_utils, "urlretrieve", fetch)
    with pytest.raises(KeyError) as caught:
        keras.utils.get_file("no.bin", "http://example.invalid/no.bin", cache_subdir="models")
    assert caught.value.args == (str(wanted / "no.bin"),)


def test_first_asked(monkeypatch, tmp_path):
    monkeypatch.setattr(keras.src.backend.config, "_KERAS_DIR", str(tmp_path))
    usual, shape = keras.src.utils.file_utils.get_file, (32, 32, 3)

    def build():
        keras.applications.VGG16(include_top=False, input_shape=shape)

    asked = downloads.first_asked(build)
    name = "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5"
    assert asked == (tmp_path / "models" / name, "6d6bbae143d832006294945121d1f1fc")
    assert keras.src.utils.file_utils.get_file is usual
    assert downloads.first_asked(lambda: None) is None
    with pytest.raises(KeyError):
        downloads.first_asked(lambda: {}["missing"])
    assert keras.src.utils.file_utils.get_file is usual


def test_first_asked__whether_it_is_there(tmp_path):
    path = tmp_path / "x.bin"
    plain, checked = downloads.Asked(path, None), downloads.Asked(path, hashlib.md5(b"x").hexdigest())
    assert not plain.is_there()
    path.write_bytes(b"x")
    assert plain.is_there()
    assert checked.is_there()
    path.write_bytes(b"y")
    assert not checked.is_there()


def test_first_asked__others_fetch(tmp_path, monkeypatch):
    monkeypatch.setattr(keras.src.backend.config, "_KERAS_DIR", str(tmp_path))
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "x.bin").write_bytes(b"contents")

    def act():
        with ThreadPoolExecutor(1) as pool:
            url = "http://example.invalid/x.bin"
            pool.submit(keras.src.utils.file_utils.get_file, "x.bin", url).result()

    assert downloads.first_asked(act) is None


def test_settle_on_tensorflow():
    assert process.settle_on_tensorflow() == (importlib.util.find_spec("tensorflow") is not None)


def test_print_message(capsys):
    process.print_message("one line [0m] of 3")
    assert capsys.readouterr().out == "one line [0m] of 3\n"
    keras.config.disable_interactive_logging()
    try:
        process.print_message("not shown")
    finally:
        keras.config.enable_interactive_logging()
    assert capsys.readouterr().out == ""


def test_home__that_is_relative(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(keras.src.backend.config, "_KERAS_DIR", "here")
    assert process.home() == tmp_path / "here"


def test_call_arguments(model):
    *_, node = graph.graph_nodes(model)
    (tensors,), named = graph.call_arguments(node)
    assert {id(tensor) for tensor in tensors} == {id(p.outputs[0]) for p in node.parent_nodes}
    assert named == {}


def test_seed_generators():
    assert len(graph.seed_generators(layers.Dropout(0.5))) == 1
    assert graph.seed_generators(layers.Dropout(0.0)) == []
    assert graph.seed_generators(layers.Dense(2)) == []


def test_own_variables():
    class Token(keras.layers.Layer):
        def build(self, shape):
            self.token = self.add_weight(shape=(2,), name="token")
            self.inner = keras.layers.Dense(2)
            self.inner.build(shape)
            self.built = True

    layer = Token()
    layer.build((None, 3))
    assert graph.own_variables(layer) == [layer.token]
    assert len(layer.variables) == 3


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(keras.layers.Dense(4), (None, 3)), (keras.layers.Embedding(5, 4), (None,))],
)
def test_lora_base(layer, shape):
    layer.build(shape)
    base = layer.weights[0]
    assert graph.lora_base(layer) == []
    layer.enable_lora(2)
    assert len(graph.lora_base(layer)) == 1
    assert graph.lora_base(layer)[0] is base
    assert not base.trainable


def test_kept_inside():
    layer = keras.layers.Dense(4)
    layer.build((None, 3))
    assert graph.kept_inside(layer) == []
    layer.enable_lora(2)
    assert [variable.name for variable in graph.kept_inside(layer)] == ["kernel"]
    norm = keras.layers.BatchNormalization()
    norm.build((None, 3))
    assert graph.kept_inside(norm) == []
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    model.layers[0].quantize("int8")
    assert {variable.name for variable in graph.kept_inside(model)} == {"kernel", "kernel_scale"}


@pytest.fixture(params=["Dense", "EinsumDense"])
def adapted(request):
    layer = (
        layers.Dense(4)
        if request.param == "Dense"
        else layers.EinsumDense("ab,bc->ac", 4, bias_axes="c")
    )
    layer.build((None, 3))
    plain = [layer.get_config(), list(layer.variables)]
    layer.enable_lora(2, lora_alpha=3.0)
    return layer, plain


def test_base_kernel(adapted):
    layer, (_, (kernel, _)) = adapted
    assert lora.base_kernel(layer) is kernel
    lora.take_off(layer)
    assert lora.base_kernel(layer) is layer.kernel is kernel


def test_take_off(adapted):
    layer, (config, (kernel, bias)) = adapted
    lora.take_off(layer)
    assert layer.get_config() == config
    assert [v is w for v, w in zip(layer.trainable_variables, (kernel, bias), strict=True)] == [
        True,
        True,
    ]
    assert not hasattr(layer, "lora_kernel_a")
    if keras.backend.backend() == "torch":
        assert not any("lora" in name for name, _ in layer.named_parameters())
    layer.enable_lora(1)


def test_put_back(adapted):
    layer, _ = adapted
    order, alpha = layer.variables, layer.lora_alpha
    a, b = layer.lora_kernel_a, layer.lora_kernel_b
    b.assign(np.ones((2, 4)))
    before = keras.ops.convert_to_numpy(layer(np.ones((1, 3), "float32")))
    lora.take_off(layer)
    lora.put_back(layer, a, b, alpha)
    assert [v is w for v, w in zip(layer.variables, order, strict=True)] == [True] * 4
    assert [v.name for v in layer.trainable_variables] == ["bias", "lora_kernel_a", "lora_kernel_b"]
    after = keras.ops.convert_to_numpy(layer(np.ones((1, 3), "float32")))
    np.testing.assert_array_equal(after, before)
    with pytest.raises(ValueError, match="already enabled"):
        layer.enable_lora(1)


def test_initial_epoch(model):
    assert trainer.initial_epoch(model) == 0

    class Restores(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.model._initial_epoch = 2  # as Keras' own BackupAndRestore does

    model.compile("sgd", "mse")
    history = model.fit(np.ones((2, 4)), np.ones((2, 3)), epochs=3, callbacks=[Restores()], verbose=0)
    assert history.epoch == [2]
    assert trainer.initial_epoch(model) == 2


@pytest.mark.parametrize("name", optimizers.OPTIMIZER_HOOKS)
def test_optimizer_hooks(name):
    assert callable(getattr(keras.optimizers.Optimizer, name))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (optimizers.ACCUMULATORS, {"gradient_accumulation_steps": 2}),
        (optimizers.AVERAGES, {"use_ema": True}),
    ],
)
def test_optimizer_lists(name, options, model):
    optimizer = keras.optimizers.SGD(**options)
    optimizer.build(model.trainable_variables)
    assert name in optimizers.slot_lists(optimizer)


def test_moving_averages():
    sgd = keras.optimizers.SGD(1.0, use_ema=True, ema_momentum=0.5)
    variable = keras.Variable(np.zeros(2), dtype="float32")
    for gradient in (-2.0, -4.0):
        sgd.apply([keras.ops.full((2,), gradient)], [variable])
    ((found, average),) = optimizers.moving_averages(sgd)
    assert found is variable
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(average), [4.0, 4.0])


def test_graph_nodes(model):
    nodes = graph.graph_nodes(model)
    assert len(nodes) == 4
    assert isinstance(nodes[0].operation, layers.InputLayer)
    assert sorted(names(nodes)[1:3]) == ["left", "right"]
    assert names(nodes)[3] == "join"
    assert sorted(names(nodes[3].parent_nodes)) == ["left", "right"]
    assert [id(tensor) for tensor in nodes[1].input_tensors] == [id(model.inputs[0])]
    assert [id(tensor) for tensor in nodes[3].outputs] == [id(model.outputs[0])]


def test_graph_nodes__of_a_sequential_model():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="a"), layers.Dense(2, name="b")])
    assert names(graph.graph_nodes(model))[1:] == ["a", "b"]


def test_graph_nodes__without_a_graph():
    class Small(keras.Model):
        pass

    assert graph.graph_nodes(Small()) is None
    assert graph.graph_nodes(keras.Sequential([layers.Dense(3)])) is None


def test_sublayers(model):
    outer = layers.TimeDistributed(layers.Dense(2, name="inner"), name="outer")
    assert [layer.name for layer in graph.sublayers(outer)] == ["outer", "inner"]
    nested = keras.Sequential([model], name="nested")
    found = {layer.name for layer in graph.sublayers(nested)}
    assert {"nested", "left", "right", "join"} <= found


def test_compiled_flags(model):
    model.get_layer("left").trainable = False
    model.compile("sgd", "mse")
    model.get_layer("left").trainable = True
    model.get_layer("right").trainable = False
    flags = {layer.name: trainable for layer, trainable in trainer.compiled_flags(model).items()}
    assert (flags["left"], flags["right"]) == (False, True)


def test_stored_compile_arguments(model):
    metric = keras.metrics.MeanAbsoluteError()
    model.compile("sgd", "mse", metrics=[metric], jit_compile=False)
    found = trainer.stored_compile_arguments(model)
    assert found["optimizer"] is model.optimizer
    assert (found["loss"], found["jit_compile"]) == ("mse", False)
    assert found["metrics"][0] is metric
    found["loss"] = "mae"
    assert model.get_compile_config()["loss"] == "mae"


def test_fit_state(model):
    model.compile("sgd", "mse", metrics=["mae"])
    x, y = np.ones((2, 4)), np.ones((2, 3))
    model.fit(x, y, verbose=0)
    model.stop_training = True
    state = trainer.fit_state(model)
    built = model.get_metrics_result()
    model.compile("sgd", "mse", metrics=["mae"])
    vars(model).update(state)
    assert model.stop_training
    assert model.get_metrics_result() == built
    assert set(built) == {"loss", "mae"}
    assert model.evaluate(x, y, verbose=0, return_dict=True)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="of Keras on JAX")
def test_fit_state__forgets_the_last_step(model):
    found = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            found.append((model._jax_state is None, trainer.fit_state(model)["_jax_state"]))

    model.compile("sgd", "mse")
    model.fit(np.ones((2, 4)), np.ones((2, 3)), callbacks=[Look()], verbose=0)
    assert found == [(False, None)]


def test_compiled_parts(model):
    model.compile("sgd", "mse", metrics=["mae"])
    own = vars(model)
    assert own[trainer.LOSS_TRACKER] is model.metrics[0]
    assert own[trainer.COMPILED_METRICS] is model.metrics[1]
    assert own[trainer.COMPILED_FLAGS] is trainer.compiled_flags(model)
    own[trainer.LOSS_TRACKER] = keras.metrics.Sum(name="loss")  # what Keras then updates
    history = model.fit(np.ones((4, 4)), np.ones((4, 3)), batch_size=2, verbose=0).history
    assert history["loss"][0] > 0.0


def test_global_seed_generator():
    keras.utils.set_random_seed(0)
    assert process.global_seed_generator() is None
    keras.random.uniform((2,))
    generator = process.global_seed_generator()
    assert isinstance(generator, keras.random.SeedGenerator)
    assert generator is process.global_seed_generator()


def test_set_global_seed_generator():
    keras.utils.set_random_seed(0)
    first = keras.ops.convert_to_numpy(keras.random.uniform((2,)))
    made = process.global_seed_generator()
    other = keras.random.SeedGenerator(5)
    process.set_global_seed_generator(other)
    second = keras.ops.convert_to_numpy(keras.random.uniform((2,)))
    assert not np.array_equal(first, second)
    assert process.global_seed_generator() is other is not made
    process.set_global_seed_generator(None)
    assert process.global_seed_generator() is None


@pytest.mark.parametrize(("accumulation", "count"), [(None, 3), (2, 1)])
def test_iteration_variable(accumulation, count):
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=accumulation)
    variable = keras.Variable(np.zeros(2), dtype="float32")
    for _ in range(3):
        optimizer.apply([keras.ops.ones(2)], [variable])
    assert int(keras.ops.convert_to_numpy(optimizers.iteration_variable(optimizer))) == 3
    assert int(keras.ops.convert_to_numpy(optimizer.iterations)) == count


@pytest.mark.parametrize(
    "rate", [keras.optimizers.schedules.ExponentialDecay(0.5, 10, 0.5), lambda: 0.5]
)
def test_learning_rate_source(rate):
    assert optimizers.learning_rate_source(keras.optimizers.SGD(rate)) is rate


def test_learning_rate_source__of_a_number(optimizer):
    source = optimizers.learning_rate_source(optimizer[0])
    assert isinstance(source, keras.Variable)
    assert float(keras.ops.convert_to_numpy(source)) == 0.25


def test_learning_rate_from(optimizer):
    adam, _ = optimizer
    own = optimizers.learning_rate_source(adam)
    state = [id(entry) for entry in adam.variables]
    with optimizers.learning_rate_from(adam, keras.optimizers.schedules.ExponentialDecay(0.5, 10, 0.5)):
        assert [id(entry) for entry in adam.variables] == state
        assert float(keras.ops.convert_to_numpy(adam.learning_rate)) == pytest.approx(0.5**1.1)
    assert optimizers.learning_rate_source(adam) is own


def test_optimized_variables(optimizer):
    adam, variables = optimizer
    found = optimizers.optimized_variables(adam)
    assert [id(variable) for variable in found] == [id(variable) for variable in variables]


def test_variable_key(optimizer):
    adam, (first, second) = optimizer
    assert optimizers.variable_key(adam, first) == optimizers.variable_key(adam, first)
    assert optimizers.variable_key(adam, first) != optimizers.variable_key(adam, second)
    if keras.backend.backend() == "tensorflow":
        assert optimizers.variable_key(adam, first.value) == optimizers.variable_key(adam, first)


def test_slot_lists(optimizer):
    adam, _ = optimizer
    slots = optimizers.slot_lists(adam)
    assert len(slots) == 2  # momentum and velocity
    assert all([v.shape for v in found] == [(2,), (3,)] for found in slots.values())
    values = sorted(float(keras.ops.convert_to_numpy(found[0])[0]) for found in slots.values())
    np.testing.assert_allclose(values, [1e-3, 0.1], rtol=1e-5)


def test_slot_lists__of_an_ema_and_accumulation():
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9, use_ema=True, gradient_accumulation_steps=2)
    optimizer.build([keras.Variable(np.zeros(2), dtype="float32")])
    assert len(optimizers.slot_lists(optimizer)) == 3


def test_slot_lists__of_another_length_are_none(optimizer):
    adam, _ = optimizer
    adam.extra = [adam.add_variable((), name="extra")]
    assert "extra" not in optimizers.slot_lists(adam)


def test_shared_slots(optimizer):
    assert optimizers.shared_slots(optimizer[0]) == {}
    nadam = keras.optimizers.Nadam(0.1)
    variable = keras.Variable(np.zeros(2), dtype="float32")
    nadam.apply([keras.ops.ones(2)], [variable])
    (product,) = optimizers.shared_slots(nadam).values()
    assert 0.0 < float(keras.ops.convert_to_numpy(product)) < 1.0


def test_weight_decay_exclusions():
    optimizer = keras.optimizers.AdamW(0.1, weight_decay=0.1)
    variables = [keras.Variable(np.zeros(2), name=name, dtype="float32") for name in ("kernel", "bias")]
    optimizer.exclude_from_weight_decay(var_list=variables[:1], var_names=["bias"])
    other = keras.optimizers.AdamW(0.1, weight_decay=0.1)
    vars(other).update(optimizers.weight_decay_exclusions(optimizer))
    rest = keras.Variable(np.ones(2), name="rest", dtype="float32")
    values = [*variables, rest]
    for variable in variables:
        variable.assign(np.ones(2))
    other.apply([keras.ops.zeros(2)] * 3, values)
    assert [bool(keras.ops.convert_to_numpy(v)[0] == 1.0) for v in values] == [True, True, False]


def test_track():
    nadam = keras.optimizers.Nadam(0.1)
    keras.optimizers.LossScaleOptimizer(nadam).build([keras.Variable(np.zeros(2), dtype="float32")])
    (product,) = optimizers.shared_slots(nadam).values()
    for _ in range(2):
        optimizers.track(nadam, product)
        assert sum(variable is product for variable in nadam.variables) == 1


def test_updates_lists(optimizer):
    adam, _ = optimizer
    on_torch = keras.backend.backend() == "torch"
    derived = kt.optimizers.LayerwiseLR(keras.optimizers.Adam(), {".*": 0.5})
    for kind in (adam, derived):
        assert optimizers.updates_lists(kind) == on_torch
    assert not optimizers.updates_lists(keras.optimizers.Lamb())


def test_statistics():
    frozen = layers.BatchNormalization(trainable=False)
    norm = layers.BatchNormalization(name="norm")
    nested = keras.Sequential([keras.Input((3,)), norm, layers.Dropout(0.5)])
    model = keras.Sequential([keras.Input((3,)), frozen, nested, layers.Dense(2)])
    assert graph.statistics(model) == [norm.moving_mean, norm.moving_variance]


def test_own_metrics_result():
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    model.compile("sgd", "mse", metrics=["mae"])
    model.evaluate(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
    assert trainer.own_metrics_result(model).keys() == {"loss", "mae"}


def test_unwrapped():
    # What it is for: tests/backends/test_several.py, with Keras 3.16.
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    with trainer.unwrapped(model):
        assert model._initialize_ddp() is None
        assert model.predict_on_batch(np.ones((4, 2))).shape == (4, 1)
    assert "_initialize_ddp" not in vars(model)


def test_epoch_ended():
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    model.compile("sgd", "mse", metrics=["mae"])
    x, y = np.ones((4, 2)), np.ones((4, 1))
    told = []

    class Seen(keras.callbacks.Callback):
        def on_test_begin(self, logs=None):
            told.append("validation begins")

        def on_epoch_end(self, epoch, logs=None):
            told.append("epoch ends")

    with trainer.epoch_ended(model, lambda: told.append("read")):
        model.fit(x, y, validation_data=(x, y), epochs=2, callbacks=[Seen()], verbose=0)
    assert told == ["read", "validation begins", "read", "epoch ends"] * 2
    model.fit(x, y, verbose=0)
    assert len(told) == 8


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="of Keras on JAX")
def test_take_jax_state():
    model = keras.Sequential([keras.Input((2,)), layers.BatchNormalization(), layers.Dense(1)])
    model.compile(keras.optimizers.Adam(), "mse")
    model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
    of_all = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    before = [keras.ops.convert_to_numpy(variable) for variable in of_all]
    names = ("trainable", "non_trainable", "optimizer", "metrics")
    asked = {f"{name}_variables": True for name in names}
    state = model._get_jax_state(**asked, purge_model_variables=True)
    assert model.trainable_variables[0]._value is None
    trainer.take_jax_state(model, state)
    for variable, value in zip(of_all, before, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), value)
    assert model._jax_state_synced


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="of Keras on JAX")
def test_placed_data_kept():
    import jax
    from keras.src.backend.jax import distribution_lib

    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=["cpu:0"]))
    try:
        layout = keras.distribution.distribution().get_data_layout((2, 3)).backend_layout
        here = jax.numpy.ones((2, 3))
        before = distribution_lib.distribute_data_input
        with trainer.placed_data_kept():
            place = distribution_lib.distribute_data_input
            assert place(here, layout, batch_dim_name="batch") is here
            assert place(np.ones((2, 3)), layout, batch_dim_name="batch").sharding == layout
        assert distribution_lib.distribute_data_input is before
    finally:
        keras.distribution.set_distribution(None)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="of Keras on TensorFlow")
def test_several_replicas():
    # With two workers: tests/backends/test_several.py.
    import tensorflow as tf
    from keras.src.backend.tensorflow import trainer as keras_trainer

    strategy, before = tf.distribute.MirroredStrategy(["CPU:0"]), keras_trainer.reduce_per_replica
    with strategy.scope():
        model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
        model.compile("sgd", "mse")
    with trainer.several_replicas(model):
        assert keras_trainer.reduce_per_replica is not before
        history = model.fit(np.ones((4, 2)), np.ones((4, 1)), batch_size=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert keras_trainer.reduce_per_replica is before


@pytest.mark.parametrize(
    ("labels", "metric"),
    [
        (np.zeros(1, "int32"), keras.metrics.SparseCategoricalAccuracy),
        (np.zeros((1, 3), "float32"), keras.metrics.CategoricalAccuracy),
    ],
)
def test_build_metrics(labels, metric):
    model = keras.Sequential([keras.Input((2,)), layers.Dense(3)])
    model.compile("sgd", "mse", metrics=["accuracy"])
    trainer.build_metrics(model, labels)
    (accuracy,) = model.metrics[1].metrics  # after the loss
    assert accuracy.name == "accuracy"
    # Keras chooses the kind by the shape of the labels.
    assert accuracy._fn is metric()._fn
    assert [float(keras.ops.sum(variable)) for variable in accuracy.variables] == [0.0, 0.0]


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="of Keras on TensorFlow")
def test_untuned():
    import tensorflow as tf

    data = trainer.untuned(tf.data.Dataset.range(3))
    assert data.options().autotune.enabled is False
    assert list(data.as_numpy_iterator()) == [0, 1, 2]


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="of Keras on TensorFlow")
def test_untuned_reading():
    import tensorflow as tf
    from keras.src.backend.tensorflow import trainer as keras_trainer
    from tensorflow.python.data.ops import multi_device_iterator_ops as devices

    def tunes(x, y=None, **arguments):
        strategy = tf.distribute.get_strategy()
        epochs = keras_trainer.TFEpochIterator(x=x, y=y, distribute_strategy=strategy, **arguments)
        return epochs._distributed_dataset.options().autotune.enabled

    x, y = np.ones((4, 2)), np.ones((4, 1))
    own, before = tf.data.Dataset.from_tensors((x, y)), devices._create_device_dataset
    with trainer.untuned_reading():
        assert tunes(x, y, batch_size=2) is False
        assert tunes(own) is None
        with attributes(devices, _ReincarnatedPerDeviceGenerator=lambda *each: own):
            made = devices._create_device_dataset(None, None, 1, False)
        assert made.options().autotune.enabled is False
        strategy = tf.distribute.MirroredStrategy(["CPU:0"])
        (read,) = strategy.experimental_distribute_dataset(own)
        np.testing.assert_array_equal(read[0], x)
    assert tunes(x, y, batch_size=2) is None
    assert devices._create_device_dataset is before


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="of Keras on TensorFlow")
def test_untuned_reading__where_this_package_fits(monkeypatch):
    from keras.src.backend.tensorflow import trainer

    tunes, get = [], trainer.TFEpochIterator._get_iterator

    def noted(self):
        tunes.append(self._distributed_dataset.options().autotune.enabled)
        return get(self)

    monkeypatch.setattr(trainer.TFEpochIterator, "_get_iterator", noted)
    images = [keras.Input((2, 2, 3)), layers.Flatten(), layers.Dense(2, "softmax")]
    model, task = keras.Sequential(images), (np.ones((8, 2, 2, 3), "float32"), np.arange(8) % 2)
    kt.fine_tune(model, task, task, [kt.Phase("all", 1, train="all")], cache=False, verbose=0)
    assert len(tunes) >= 2  # training and validation
    kt.find_lr(model, kt.Loader(task, 4), num_steps=6, verbose=0)
    assert len(tunes) >= 3
    assert set(tunes) == {False}


def test_attributes():
    layer = layers.Dense(2)
    with attributes(layer, units=5):
        assert layer.units == 5
    assert layer.units == 2


def test_attributes__that_the_class_has():
    layer = layers.Dense(2)
    with attributes(layer, call=len):
        assert layer.call is len
    assert "call" not in vars(layer)


def test_attributes__are_put_back_after_an_error():
    layer = layers.Dense(2)
    with pytest.raises(RuntimeError, match="inside"), attributes(layer, units=5):
        raise RuntimeError("inside")
    assert layer.units == 2


def test_attributes__pass_keras_tracking_by():
    layer = layers.Dense(2, name="outer")
    layer.extra = None
    with attributes(layer, extra=layers.Dense(1, name="inner")):
        assert [found.name for found in graph.sublayers(layer)] == ["outer"]


in_place = pytest.mark.skipif(keras.backend.backend() == "jax", reason="a step on JAX is of values")


def test_changed_in_place(model):
    in_place = keras.backend.backend() != "jax"
    assert trainer.changed_in_place(model) == (model.variables if in_place else [])


@in_place
def test_storage(optimizer):
    _, variables = optimizer
    places = trainer.storage(variables)
    variables[0].assign([5.0, 6.0])
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(places[0]), [5.0, 6.0])


@in_place
def test_copied_storage(optimizer):
    _, variables = optimizer
    before = [keras.ops.convert_to_numpy(variable).copy() for variable in variables]
    places = trainer.copied_storage(variables)
    variables[0].assign([5.0, 6.0])
    for place, value in zip(places, before, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(place), value)


@in_place
def test_store_in():
    model = keras.Sequential([keras.Input((2,)), layers.BatchNormalization(), layers.Dense(1)])
    own, others = trainer.storage(model.variables), trainer.copied_storage(model.variables)
    before = [weight.copy() for weight in model.get_weights()]
    trainer.store_in(model.variables, others)
    model.compile(keras.optimizers.SGD(0.5), "mse")
    model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
    trained = [weight.copy() for weight in model.get_weights()]
    trainer.store_in(model.variables, own)
    np.testing.assert_equal(model.get_weights(), before)
    trainer.store_in(model.variables, others)
    np.testing.assert_equal(model.get_weights(), trained)
    assert not np.array_equal(trained[-1], before[-1])


class TestLoadedAtOnce:
    @pytest.fixture(autouse=True)
    def _drawn(self, monkeypatch):
        """Count what initializers draw."""
        self.drawn = []
        draw = keras.initializers.GlorotUniform.__call__

        def counted(initializer, shape, dtype=None):
            self.drawn.append(tuple(shape))
            return draw(initializer, shape, dtype)

        monkeypatch.setattr(keras.initializers.GlorotUniform, "__call__", counted)

    @pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
    def test_loaded_at_once(self, dtype):
        weights = [np.full((2, 3), 0.5), np.full(3, 0.25)]
        with begun.loaded_at_once():
            layer = layers.Dense(3, dtype=dtype)
            layer.build((None, 2))
            layer.set_weights(weights)
        assert self.drawn == []
        for found, given in zip(layer.get_weights(), weights, strict=True):
            np.testing.assert_array_equal(found.astype("float32"), given)

    @pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
    def test_loaded_at_once__what_is_not_loaded_is_drawn_as_ever(self, dtype):
        def built():
            glorot = keras.initializers.GlorotUniform(7)
            layer = layers.Dense(3, dtype=dtype, kernel_initializer=glorot, bias_initializer="ones")
            layer.build((None, 2))
            return layer

        with begun.loaded_at_once():
            layer = built()
        assert self.drawn == [(2, 3)]
        for ours, usual in zip(layer.get_weights(), built().get_weights(), strict=True):
            np.testing.assert_array_equal(ours, usual)

    def test_undrawn(self):
        with begun.undrawn() as found:
            layer = layers.Dense(3)
            layer.build((None, 2))
        assert self.drawn == []
        assert [variable for variable, _ in found] == [layer.kernel]
        again = layers.Dense(3)
        again.build((None, 2))
        assert self.drawn == [(2, 3)]

    def test_loaded_at_once__is_over_after_an_error(self):
        usual = keras.Variable._initialize_with_initializer
        with pytest.raises(KeyError), begun.loaded_at_once():
            raise KeyError
        assert keras.Variable._initialize_with_initializer is usual

    def test_loaded_at_once__other_threads_draw(self):
        def build():
            layer = layers.Dense(3)
            layer.build((None, 2))
            return layer.get_weights()[0]

        with begun.loaded_at_once(), ThreadPoolExecutor(1) as pool:
            kernel = pool.submit(build).result()
        assert self.drawn == [(2, 3)]
        assert len(np.unique(kernel)) > 1
