"""What kind of labels a model is for, by what it ends in."""

import keras

from keras_transfer.layers.graph import has_graph
from keras_transfer.layers.head import endings
from keras_transfer.tasks.multi_label import MULTI_LABEL
from keras_transfer.tasks.single_label import SINGLE_LABEL
from keras_transfer.tasks.task import Task


def task_of(model: keras.Model) -> Task:
    """Return the task of a model: several labels an image if it ends in a sigmoid for each class.

    So files tell it, too, those of stock Keras included. One sigmoid alone tells two classes apart.
    """
    if not has_graph(model) or len(model.outputs) != 1:
        return SINGLE_LABEL
    shape = model.outputs[0].shape
    found = [ending.activation for ending in endings(model)]
    several = len(shape) == 2 and shape[-1] is not None and shape[-1] > 1
    return MULTI_LABEL if several and found == [keras.activations.sigmoid] else SINGLE_LABEL
