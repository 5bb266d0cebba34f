"""Random graphs and random sequences of freezing and unfreezing, against a promise written down here."""

from dataclasses import dataclass, field

import keras
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keras import layers

import keras_transfer as kt
from keras_transfer.layers.graph import leaf_layers
from keras_transfer.layers.head import head_layers

SHAPE = (3, 4)  # what every layer takes and gives, so that any two can be joined
ALWAYS = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "suppress_health_check": list(HealthCheck),
}


@dataclass
class Graph:
    """A random model, and what is known of it because it was built here."""

    model: keras.Model | None = None
    leaves: dict[str, keras.Layer] = field(default_factory=dict)
    norms: dict[str, keras.Layer] = field(default_factory=dict)  # batch norm by the leaf it is in
    called: dict[str, int] = field(default_factory=dict)
    edges: set[tuple[str, str]] = field(default_factory=set)


@dataclass
class Value:
    """A tensor, and the leaf layers from which it comes."""

    tensor: keras.KerasTensor
    sources: set[str]


class Builder:
    """Builds a graph step by step, as `draw` says."""

    def __init__(self, draw):
        self.draw = draw
        self.graph = Graph()

    def leaf(self, layer, *values, norm=None):
        graph = self.graph
        graph.leaves[layer.name] = layer
        graph.called[layer.name] = graph.called.get(layer.name, 0) + 1
        if norm is not None:
            graph.norms[layer.name] = norm
        graph.edges |= {(source, layer.name) for value in values for source in value.sources}
        tensors = [value.tensor for value in values]
        return Value(layer(tensors if len(tensors) > 1 else tensors[0]), {layer.name})

    def name(self):
        return f"n{len(self.graph.leaves)}"

    def step(self, kind, value):
        """Return one more layer on a value; without biases, as those before batch norm can't move."""
        if kind == "dense":
            return self.leaf(layers.Dense(4, use_bias=False, name=self.name()), value)
        if kind == "composite":
            inner = layers.Dense(4, use_bias=False)
            return self.leaf(layers.TimeDistributed(inner, name=self.name()), value)
        if kind == "norm":
            layer = layers.BatchNormalization(name=self.name())
            value = self.leaf(layer, value, norm=layer)
        else:
            inner = layers.BatchNormalization()
            value = self.leaf(layers.TimeDistributed(inner, name=self.name()), value, norm=inner)
        return self.leaf(layers.Activation("tanh", name=self.name()), value)  # keeps gamma's gradient

    def body(self, values, nesting):
        """Return the sum of all loose ends of a random graph on `values`."""
        ends, reusable = list(values), []
        for _ in range(self.draw(st.integers(1, 5))):
            kinds = ["dense", "norm", "composite", "composite norm", "join", "branch", "reuse"]
            kind = self.draw(st.sampled_from([*kinds, "nest"] if nesting else kinds))
            at = self.draw(st.integers(0, len(ends) - 1))
            if kind == "join" and len(ends) > 1:
                other = ends.pop()
                at = min(at, len(ends) - 1)
                ends[at] = self.leaf(layers.Add(name=self.name()), ends[at], other)
            elif kind == "branch":
                ends.append(self.step("dense", ends[at]))
            elif kind == "nest":
                inputs = keras.Input(SHAPE)
                inner = self.body([Value(inputs, ends[at].sources)], nesting - 1)
                model = keras.Model(inputs, inner.tensor, name=f"model{len(self.graph.leaves)}")
                ends[at] = Value(model(ends[at].tensor), inner.sources)
                reusable.append(model)
            elif kind == "reuse" and reusable:
                self.reuse(ends, at, self.draw(st.sampled_from(reusable)))
            else:
                kind = kind if kind in kinds[:4] else "dense"
                ends[at] = self.step(kind, ends[at])
                if kind == "dense":
                    reusable.append(self.graph.leaves[next(iter(ends[at].sources))])
        while len(ends) > 1:
            ends.append(self.leaf(layers.Add(name=self.name()), ends.pop(), ends.pop()))
        return ends[0]

    def reuse(self, ends, at, shared):
        inside = leaf_layers(shared) if isinstance(shared, keras.Model) else [shared]
        for layer in inside:
            self.graph.called[layer.name] += 1
        ends[at] = Value(shared(ends[at].tensor), {layer.name for layer in inside})

    def build(self):
        inputs = [keras.Input(SHAPE) for _ in range(self.draw(st.integers(1, 2)))]
        values = [self.step("dense", Value(tensor, set())) for tensor in inputs]
        value = self.body(values, nesting=2)
        value = self.leaf(layers.GlobalAveragePooling1D(name="pool"), value)
        value = self.leaf(layers.Dense(3, name="out"), value)
        self.graph.model = keras.Model(inputs, value.tensor, name="random")
        return self.graph


def random_graph(data):
    # Not a strategy: Keras draws random seeds, which hypothesis forbids there.
    keras.utils.clear_session(free_memory=False)
    return Builder(data.draw).build()


def names(found):
    return [layer.name for layer in found]


@settings(max_examples=60, **ALWAYS)
@given(st.data())
def test_leaves_are_all_layers_in_depth_order(data):
    graph = random_graph(data)
    order = names(leaf_layers(graph.model))
    assert sorted(order) == sorted(graph.leaves)
    for before, after in graph.edges:
        if graph.called[after] == 1:  # one that is shared stands where it is first used
            assert order.index(before) < order.index(after)


@settings(max_examples=60, **ALWAYS)
@given(st.data())
def test_groups_partition_the_leaves_and_end_in_the_head(data):
    graph = random_graph(data)
    groups = kt.layer_groups(graph.model)
    assert [name for group in groups for name in names(group.layers)] == names(leaf_layers(graph.model))
    assert all(group.layers for group in groups)
    assert groups[-1].name == "head"
    assert names(groups[-1].layers) == names(head_layers(graph.model)) == ["pool", "out"]


BATCH_NORM = st.sampled_from(["freeze", "train"])


@dataclass
class Promise:
    """What the documentation says of each leaf and each batch norm, kept beside the model."""

    graph: Graph
    leaves: dict[str, bool]
    norms: dict[str, bool]

    def after(self, trains, batch_norm):
        """Return the promise of a call that lets the leaves `trains` train."""
        norm = batch_norm == "train"
        plain = {name for name, layer in self.graph.norms.items() if layer is self.graph.leaves[name]}
        leaves = {name: norm if name in plain else name in trains for name in self.leaves}
        return Promise(self.graph, leaves, dict.fromkeys(self.norms, norm))

    def visible(self):
        """Return what the table can show: flags of layers with weights, and of batch norm in them."""
        return {
            name: (trains, self.norms.get(name))
            for name, trains in self.leaves.items()
            if self.graph.leaves[name].weights
        }

    def trainable(self):
        """Return the paths of the variables that train."""
        return {path for path in self.moving() if "/moving_" not in path}

    def moving(self):
        """Return the paths of the variables that `fit` moves."""
        return {
            variable.path
            for name, layer in self.graph.leaves.items()
            if self.norms.get(name, self.leaves[name])
            for variable in layer.weights
        }


def call(draw, promise):
    """Draw a call; return it and what it promises."""
    model, batch_norm = promise.graph.model, draw(BATCH_NORM)
    order = names(leaf_layers(model))
    kind = draw(st.sampled_from(["backbone", "to", "all", "some", "from"]))
    if kind == "backbone":
        return lambda: kt.freeze_backbone(model, batch_norm=batch_norm), promise.after(
            {"pool", "out"}, batch_norm
        )
    if kind == "all":
        return lambda: kt.unfreeze(model, batch_norm=batch_norm), promise.after(set(order), batch_norm)
    if kind == "some":
        wanted = draw(st.lists(st.sampled_from(order), min_size=1, max_size=3))
        trains = {name for name, flag in promise.leaves.items() if flag} | set(wanted)
        return lambda: kt.unfreeze(model, wanted, batch_norm=batch_norm), promise.after(
            trains, batch_norm
        )
    if kind == "from":
        name = draw(st.sampled_from(order))
        return lambda: kt.unfreeze_from(model, name, batch_norm=batch_norm), promise.after(
            set(order[order.index(name) :]), batch_norm
        )
    groups = [names(group.layers) for group in kt.layer_groups(model)]
    n = draw(st.integers(-len(groups), len(groups) - 1))
    trains = {name for group in groups[n:] for name in group}
    return lambda: kt.freeze_to(model, n, batch_norm=batch_norm), promise.after(trains, batch_norm)


def play(draw, graph, calls):
    """Make random calls, check each against its promise, and return the last one that was kept."""
    promise = Promise(graph, dict.fromkeys(graph.leaves, True), dict.fromkeys(graph.norms, True))
    for _ in range(calls):
        function, next_promise = call(draw, promise)
        before, after = promise.visible(), next_promise.visible()
        if before == after:
            assert len(function()) == 0
        else:
            table = function()
            assert {row.layer for row in table} == {
                name for name in after if before[name] != after[name]
            }
            promise = next_promise
        assert {variable.path for variable in graph.model.trainable_variables} == promise.trainable()
        flags = {layer.name: layer.trainable for layer in leaf_layers(graph.model)}
        assert flags == promise.leaves
    return promise


@settings(max_examples=60, **ALWAYS)
@given(st.data())
def test_any_calls_leave_trainable_what_they_promise(data):
    play(data.draw, random_graph(data), calls=data.draw(st.integers(1, 6)))


@settings(max_examples=7, **ALWAYS)
@given(st.data())
def test_fit_moves_exactly_what_trains(data):
    graph = random_graph(data)
    model = graph.model
    promise = play(data.draw, graph, calls=data.draw(st.integers(1, 3)))
    before = {v.path: np.array(keras.ops.convert_to_numpy(v)) for v in model.variables}
    rng = np.random.default_rng(0)
    x = [rng.standard_normal((8, *SHAPE), "float32") for _ in model.inputs]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Lion(1e-2), loss)  # by the sign, so that no step is too small to see
    model.fit(x if len(x) > 1 else x[0], np.arange(8) % 3, verbose=0)
    moved = {v.path for v in model.variables if (keras.ops.convert_to_numpy(v) != before[v.path]).any()}
    assert moved == promise.moving()
