"""What training minimises and measures: the loss on logits, the metrics on probabilities.

A softmax before the loss is not the same on three backends: TensorFlow recovers the logits from the
graph, torch and JAX clip the probabilities at 1e-7. On saturated predictions the weights then drift
apart within a few steps. From logits all three agree, and gradients don't vanish.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from keras_transfer.layer_groups import leaf_layers


class Objective:
    """Loss and metrics for a model, for training on its logits and for evaluating the whole.

    Args:
        model: a functional or sequential classifier with one input and one output.
        loss: a Keras loss or its name; None is cross-entropy from logits. One with `from_logits=True`
            gets the logits, any other the model's output.
        metrics: Keras metrics of the model's output; None is accuracy.

    Raises:
        ValueError: the model has several inputs or outputs or no graph, or the loss wants logits and
            the model ends neither in a softmax nor in logits.
    """

    def __init__(
        self, model: keras.Model, loss: Any = None, metrics: Sequence[Any] | None = None
    ) -> None:
        if not isinstance(model, keras.Model):
            raise TypeError(f"model must be a keras.Model. Received: model={model!r}")
        ends = [getattr(model, "inputs", None) or (), getattr(model, "outputs", None) or ()]
        if not all(len(tensors) == 1 for tensors in ends):
            raise ValueError(
                "model must be functional or sequential, built, with one input and one output. "
                f"Received: {type(model).__name__} {model.name!r} with {len(ends[0])} inputs and "
                f"{len(ends[1])} outputs"
            )
        self._metrics = ["accuracy"] if metrics is None else list(metrics)
        self._loss = _Crossentropy() if loss is None else keras.losses.get(loss)
        self._on_logits = loss is None or _wants_logits(self._loss)
        self._last = model.layers[-1]  # the output layer, or the nested model that holds it
        self._activated = leaf_layers(model)[-1]
        activation = getattr(self._activated, "activation", None)
        self._softmax_layer = isinstance(self._last, keras.layers.Softmax) or (
            isinstance(self._last, keras.layers.Activation) and activation is keras.activations.softmax
        )
        self._ends_in_softmax = self._softmax_layer or activation is keras.activations.softmax
        if (
            self._on_logits
            and not self._ends_in_softmax
            and activation
            not in (
                None,
                keras.activations.linear,
            )
        ):
            raise ValueError(
                "model must end in a softmax or in logits for a loss on logits; pass loss=... for "
                f"another output. Received: a model that ends in {self._activated.name!r} with the "
                f"activation {getattr(activation, '__name__', activation)!r}"
            )

    @contextlib.contextmanager
    def view(self, model: keras.Model) -> Iterator[keras.Model]:
        """Give a model for training: it shares the layers of `model` and ends where the loss begins.

        Args:
            model: the model that this objective was made for.

        Yields:
            The view. It is good inside the block only: a softmax inside the last layer is switched off
            meanwhile.
        """
        if not self._on_logits or not self._ends_in_softmax:
            yield keras.Model(model.inputs, model.outputs[0], name=model.name)
        elif self._softmax_layer:
            yield keras.Model(model.inputs, self._last.input, name=model.name)
        else:
            self._activated.activation = keras.activations.linear
            try:
                yield keras.Model(model.inputs, model.outputs[0], name=model.name)
            finally:
                self._activated.activation = keras.activations.softmax

    def compile_view(self, view: keras.Model, optimizer: keras.optimizers.Optimizer) -> None:
        """Compile a view for training."""
        metrics = self._metrics
        if self._on_logits and self._ends_in_softmax:
            # The softmax changes no accuracy, and Keras chooses the right kind of it by its name.
            metrics = [m if m in ("accuracy", "acc") else _OnProbabilities(m) for m in metrics]
        view.compile(optimizer=optimizer, loss=self._loss, metrics=metrics)

    def compile_model(self, model: keras.Model, optimizer: keras.optimizers.Optimizer) -> None:
        """Compile the whole model for `evaluate`, with stock Keras objects only."""
        # Keras builds the optimizer of a model that it loads; an unbuilt one's file would not fit.
        optimizer.build(model.trainable_variables)
        loss = self._loss
        if self._on_logits:
            from_logits = not self._ends_in_softmax
            if isinstance(loss, _Crossentropy):
                loss = loss.stock(from_logits)
            else:
                loss = type(loss).from_config({**loss.get_config(), "from_logits": from_logits})
        model.compile(optimizer=optimizer, loss=loss, metrics=self._metrics)


class _Crossentropy(keras.losses.Loss):
    """Cross-entropy from logits; labels may be integers or one-hot rows.

    Which of the two shows in the shape of the labels when the first batch comes, so that nothing need
    be drawn from the data beforehand.
    """

    def __init__(self) -> None:
        super().__init__(name="crossentropy")
        self.one_hot = False

    def call(self, y_true: Any, y_pred: Any) -> Any:
        self.one_hot = len(y_true.shape) == 2 and y_true.shape[-1] == y_pred.shape[-1]
        if self.one_hot:
            return keras.losses.categorical_crossentropy(y_true, y_pred, from_logits=True)
        return keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)

    def stock(self, from_logits: bool) -> keras.losses.Loss:
        if self.one_hot:
            return keras.losses.CategoricalCrossentropy(from_logits=from_logits)
        return keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)


class _OnProbabilities(keras.metrics.Metric):
    """A metric of probabilities, for a model that gives logits."""

    def __init__(self, metric: Any) -> None:
        metric = keras.metrics.get(metric)
        super().__init__(name=metric.name)
        self._metric = metric

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self._metric.update_state(y_true, keras.ops.softmax(y_pred), sample_weight=sample_weight)

    def result(self) -> Any:
        return self._metric.result()

    def reset_state(self) -> None:
        self._metric.reset_state()


def _wants_logits(loss: Any) -> bool:
    return isinstance(loss, keras.losses.Loss) and bool(loss.get_config().get("from_logits"))
