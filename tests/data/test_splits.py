import pytest

from keras_transfer.data.sets.splits import Part, chosen_positions, parse_split

SIZES = {"train": 20, "validation": 6, "test": 10}


def chosen(split, sizes=SIZES):
    parts = parse_split(split, list(sizes), "zoo")
    return chosen_positions(split, parts, sizes).tolist()


@pytest.mark.parametrize(
    ("split", "parts"),
    [
        ("train", [Part("train")]),
        ("train[:]", [Part("train")]),
        ("test[3:]", [Part("test", "3")]),
        ("test[:-3]", [Part("test", None, "-3")]),
        ("train[10%:20%]", [Part("train", "10%", "20%")]),
        ("train+test", [Part("train"), Part("test")]),
        ("test[:5] + train[50%:]", [Part("test", None, "5"), Part("train", "50%")]),
    ],
)
def test_parts(split, parts):
    assert parse_split(split, list(SIZES), "zoo") == parts


@pytest.mark.parametrize(
    ("split", "positions"),
    [
        ("train", range(20)),
        ("validation", range(20, 26)),
        ("test", range(26, 36)),
        ("train[5:8]", range(5, 8)),
        ("validation[-2:]", range(24, 26)),
        ("test[25%:75%]", range(28, 34)),  # 2.5 to 7.5, each to the nearest even number
        ("train[:33%]", range(7)),
        ("test[8:99]", range(34, 36)),
        ("validation+train[:2]", [*range(20, 26), 0, 1]),
        ("test[:1]+train[19:]+test[1:2]", [26, 19, 27]),
        ("train[:50%]+train[50%:]", range(20)),
    ],
)
def test_positions(split, positions):
    assert chosen(split) == list(positions)


def test_percentages_make_the_whole():
    for size in (7, 20, 99):
        for percent in range(1, 100):
            sizes = {"train": size}
            split = f"train[:{percent}%]+train[{percent}%:]"
            if 0 < round(percent * size / 100) < size:
                assert chosen(split, sizes) == list(range(size))


@pytest.mark.parametrize("split", ["test[5:5]", "train+test[:0]", "test[:4%]+train", "test[12:]"])
def test_an_empty_part(split):
    with pytest.raises(ValueError, match="at least one of the 10 samples") as error:
        chosen(split)
    assert str(error.value).endswith(f". Received: split={split!r}")


@pytest.mark.parametrize("split", ["train+train", "train[:60%]+train[40%:]", "test[:1]+train+test[0:1]"])
def test_common_samples(split):
    with pytest.raises(ValueError, match="without common samples") as error:
        chosen(split)
    assert str(error.value).endswith(f". Received: split={split!r}")


@pytest.mark.parametrize(
    "split", ["", "train[", "train[:5", "train[5]", "train[a:]", "[:5]", "train+", "+"]
)
def test_not_a_split(split):
    with pytest.raises(ValueError, match="split must be 'train', 'validation' or 'test', or") as error:
        chosen(split)
    assert str(error.value).endswith(f"such as 'train+validation'. Received: split={split!r}")


@pytest.mark.parametrize("split", ["valid", "Validation[:5]", "train+validaton"])
def test_a_name_that_is_near(split):
    with pytest.raises(ValueError, match="; did you mean validation\\? Received: split='"):
        chosen(split)


def test_a_data_set_with_one_split():
    with pytest.raises(
        ValueError, match="a part such as 'train\\[:80%\\]' and 'train\\[80%:\\]'"
    ) as error:
        parse_split("test", ["train"], "zoo")
    assert str(error.value).endswith("as zoo has only 'train'. Received: split='test'")
