"""What training minimises and measures: the loss on logits, the metrics on probabilities.

A softmax before the loss is not the same on three backends: TensorFlow recovers the logits from the
graph, torch and JAX clip the probabilities at 1e-7. On saturated predictions the weights then drift
apart within a few steps. From logits all three agree, and gradients don't vanish.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from keras_transfer._lib.keras_private.graph import sublayers
from keras_transfer.layers.head import endings
from keras_transfer.layers.task import task_of
from keras_transfer.tasks.single_label import SINGLE_LABEL
from keras_transfer.tasks.task import Task

_ACCURACY = ("accuracy", "acc")
_CATEGORICAL = (
    keras.losses.CategoricalCrossentropy,
    keras.losses.CategoricalFocalCrossentropy,
    keras.losses.SparseCategoricalCrossentropy,
)
_SPARSE = (
    keras.losses.SparseCategoricalCrossentropy,
    keras.metrics.SparseCategoricalAccuracy,
    keras.metrics.SparseCategoricalCrossentropy,
    keras.metrics.SparseTopKCategoricalAccuracy,
)


class Objective:
    """Loss and metrics for a model, for training on its logits and for evaluating the whole.

    Args:
        model: a functional or sequential classifier with one input and one output.
        loss: a Keras loss or its name; None: that of the task. Keras' categorical cross-entropies are
            taken on the logits, as is any loss with `from_logits=True`, and of a model with sigmoids the
            binary cross-entropies; others on the model's output.
        metrics: Keras metrics of the model's output; None: those of the task.
        task: what kind of labels the model learns; None: that of what it ends in.

    Raises:
        ValueError: the model has several inputs or outputs or no graph, or the loss wants logits and
            the model ends neither in a softmax or sigmoids nor in logits.
    """

    def __init__(
        self,
        model: keras.Model,
        loss: Any = None,
        metrics: Sequence[Any] | None = None,
        task: Task | None = None,
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
        self._task = task = task_of(model) if task is None else task
        self._default = loss is None
        self._metrics = [task.metric(each) for each in (task.metrics if metrics is None else metrics)]
        for metric in self._metrics:
            _resolved(metric)  # an unknown one is an error now, not when training begins
        self._end, self._ending = _ending(model, task)
        self._loss = task.loss(loss) if loss is None or self._ending else keras.losses.get(loss)
        self._on_logits = task.wants_logits(self._loss)
        if self._on_logits and self._ending is None:
            raise ValueError(
                "model must end in a softmax or in logits for a loss on logits; pass loss=... for "
                f"another output. Received: a model that ends in {self._end!r}"
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
        if not self._on_logits or self._ending == "logits":
            yield keras.Model(model.inputs, model.outputs[0], name=model.name)
        elif self._ending == "operation":
            yield keras.Model(model.inputs, self._end.input, name=model.name)
        else:
            self._end.activation = keras.activations.linear
            try:
                yield keras.Model(model.inputs, model.outputs[0], name=model.name)
            finally:
                self._end.activation = self._task.output
                model.predict_function = model.test_function = None  # may have been traced meanwhile

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Let the model be whole inside the block, also inside that of a view, which isn't good then."""
        if self._ending != "activation":
            yield
            return
        before, self._end.activation = self._end.activation, self._task.output
        try:
            yield
        finally:
            self._end.activation = before

    def compile_view(self, view: keras.Model, optimizer: keras.optimizers.Optimizer) -> None:
        """Compile a view for training."""
        metrics = self._metrics
        if self._on_logits and self._ending != "logits":
            # The softmax changes no accuracy, and Keras chooses the right kind of it by its name.
            metrics = [m if m in _ACCURACY else _OnProbabilities(m, self._task) for m in metrics]
        optimizer = loss_scaled(view, optimizer)
        self._reset_metrics()
        view.compile(optimizer=optimizer, loss=self._loss, metrics=metrics, auto_scale_loss=False)

    def _reset_metrics(self) -> None:
        """Let metrics begin anew: Keras resets none that it hasn't built for the model it compiles."""
        for metric in self._metrics:
            if isinstance(metric, keras.metrics.Metric):
                metric.reset_state()

    @property
    def reduction(self) -> str | None:
        """How the loss of a batch is made of that of its samples, in Keras' words."""
        return getattr(self._loss, "reduction", "sum_over_batch_size")

    @property
    def labels_of(self) -> Task | None:
        """The task of which labels must be: by a softmax, or by the loss; None: that isn't known."""
        ends_so = self._ending in ("operation", "activation") and self._task is SINGLE_LABEL
        if ends_so or isinstance(self._loss, _CATEGORICAL):
            return SINGLE_LABEL
        return self._task if self._default else None

    @property
    def integers_only(self) -> list[str]:
        """The loss and metrics that labels as rows, such as those of mixed images, are of no use to."""
        every = [self._loss, *(_resolved(metric) for metric in self._metrics)]
        sparse = keras.losses.sparse_categorical_crossentropy
        found = [each for each in every if isinstance(each, _SPARSE) or each is sparse]
        return [getattr(each, "name", "") or each.__name__ for each in found]

    @property
    def met_rows(self) -> bool:
        """Whether the labels in training were rows, as far as the loss tells."""
        return getattr(self._loss, "one_hot", not self.integers_only)

    def compile_model(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        one_hot: bool | None = None,
    ) -> None:
        """Compile the whole model for `evaluate`, with stock Keras objects only.

        Args:
            model: the model that this objective was made for, or another on its layers.
            optimizer: what to compile it with. One that is built trains already, and stays as it is.
            one_hot: whether the labels are rows, for a loss that takes both; None: as in training.
        """
        if not optimizer.built:
            optimizer = loss_scaled(model, optimizer)
            # Keras builds the optimizer of a model that it loads; an unbuilt one's file would not fit.
            optimizer.build(model.trainable_variables)
            self._reset_metrics()
        loss = self._loss
        if self._on_logits:
            loss = self._task.stock_loss(loss, self._ending == "logits", one_hot)
        model.compile(optimizer=optimizer, loss=loss, metrics=self._metrics, auto_scale_loss=False)


class _OnProbabilities(keras.metrics.Metric):
    """A metric of probabilities, for a model that gives logits."""

    def __init__(self, metric: Any, task: Task) -> None:
        resolved = _resolved(metric)
        # Keras calls a metric in the logs as it was called in `compile`.
        super().__init__(name=metric if isinstance(metric, str) else resolved.name)
        self._metric, self._output = resolved, task.output

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self._metric.update_state(y_true, self._output(y_pred), sample_weight=sample_weight)

    def result(self) -> Any:
        return self._metric.result()

    def reset_state(self) -> None:
        self._metric.reset_state()


def _ending(model: keras.Model, task: Task) -> tuple[Any, str | None]:
    """Return what gives the output of `model`, and what that is.

    "operation": the softmax, or whatever the output of the task is, as one of its own, whose input is
    the logits. "activation": a layer with such an activation, in the model or in one nested in it.
    "logits": a linear layer. None: anything else.
    """
    found = endings(model)
    if not found:
        return model.outputs[0], None  # which is an input
    ((call, activation),) = found
    end = call.operation
    own = getattr(end, "activation", None)
    alone = own is None or isinstance(end, keras.layers.Activation)
    if alone and not call.path and activation is task.output:
        return end, "operation"
    if own is task.output:
        return end, "activation"
    return end, "logits" if own is keras.activations.linear else None


def _resolved(metric: Any) -> keras.metrics.Metric:
    found = keras.metrics.get("categorical_accuracy" if metric in _ACCURACY else metric)
    if isinstance(found, keras.metrics.Metric):
        return found
    name = metric if isinstance(metric, str) else getattr(found, "__name__", "metric")
    return keras.metrics.MeanMetricWrapper(found, name=name)


def loss_scaled(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """Return `optimizer`, with a `LossScaleOptimizer` around it where `model` needs one.

    Keras goes by the policy that is set when a model is put together, which a view of a model doesn't
    share with its layers: one from a file, say, computes in float16 whatever the policy is now.

    Args:
        model: what is to be trained.
        optimizer: with what, built or not. One that scales the loss already is returned as it is.
    """
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return optimizer
    narrow = any(
        layer.compute_dtype == "float16" and layer.weights and layer.variable_dtype != "float16"
        for layer in sublayers(model)
        if not isinstance(layer, keras.Model)
    )
    return keras.optimizers.LossScaleOptimizer(optimizer) if narrow else optimizer
