"""A small classifier and a task that it can learn."""

import pytest
from tiny import tiny_backbone, tiny_task

import keras_transfer as kt


@pytest.fixture
def model():
    return kt.classifier(tiny_backbone(), 3, seed=0)


@pytest.fixture
def task():
    return tiny_task()
