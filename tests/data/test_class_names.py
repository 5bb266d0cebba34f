import pytest

from keras_transfer.data.sets.flowers import class_names


@pytest.mark.parametrize(
    ("data_set", "count"),
    [("cifar10", 10), ("cifar100", 100), ("hotdog", 2), ("tf_flowers", 5), ("oxford_flowers102", 102)],
)
def test_each_class_has_a_name_of_its_own(data_set, count):
    names = class_names(data_set)
    assert len(set(names)) == len(names) == count
    assert all(name == name.strip() != "" for name in names)


@pytest.mark.parametrize("data_set", ["cifar10", "cifar100"])
def test_cifar_is_in_alphabetical_order(data_set):
    assert class_names(data_set) == sorted(class_names(data_set))
