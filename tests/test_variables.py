"""Copies of variables, and back."""

import keras
import numpy as np
import pytest

from keras_transfer._lib.variables import assign_variables, copy_variables


def test_there_and_back():
    variables = [keras.Variable(np.arange(3.0)), keras.Variable(2, trainable=False)]
    kept = copy_variables(variables)
    for variable in variables:
        variable.assign(0 * variable)
    np.testing.assert_array_equal(kept[0], [0, 1, 2])  # a copy
    assign_variables(variables, kept)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(variables[0]), [0, 1, 2])
    assert int(keras.ops.convert_to_numpy(variables[1])) == 2


@pytest.mark.parametrize("count", [1, 3])
def test_of_another_number_is_an_error(count):
    variables = [keras.Variable(np.zeros(2)), keras.Variable(np.zeros(2))]
    with pytest.raises(ValueError, match="zip"):
        assign_variables(variables, [np.ones(2)] * count)
