"""Files of plain numbers: what was written comes back, and nothing else does."""

import ml_dtypes
import numpy as np
import pytest

from keras_transfer._lib.arrays import DamagedError, array_digest, read_array, write_arrays

RNG = np.random.default_rng(0)
ARRAYS = {
    "float32": RNG.random((4, 3), "float32"),
    "float16": RNG.random((2, 2)).astype("float16"),
    "bfloat16": RNG.random(5).astype(ml_dtypes.bfloat16),
    "integers": RNG.integers(0, 9, (3, 1), "int64"),
    "flags": np.array([True, False]),
    "one number": np.array(2.5),
    "none": np.zeros((0, 3), "float32"),
    "transposed": np.asfortranarray(RNG.random((4, 3)))[::-1],
}


@pytest.fixture
def file(tmp_path):
    """Return a file with all of them."""
    path = tmp_path / "arrays"
    write_arrays(path, ARRAYS.values())
    return path


def start_of(name):
    names = list(ARRAYS)
    return sum(ARRAYS[each].nbytes for each in names[: names.index(name)])


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_come_back_as_they_were(name, file):
    array = ARRAYS[name]
    found = read_array(file, array.dtype.name, list(array.shape), array_digest(array), start_of(name))
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(found, array)


def test_a_digest_tells_dtype_shape_and_numbers():
    array = np.zeros((2, 3), "float32")
    others = [array + 1, array.T, array.ravel(), array.astype("int32"), array[:1]]
    digests = [array_digest(each) for each in (array, *others)]
    assert len(set(digests)) == len(digests)
    assert array_digest(array.copy(order="F")) == digests[0]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"dtype": "object"}, "an array of object"),
        ({"dtype": "S4"}, r"an array of \|S4"),
        ({"dtype": "f4,f4"}, "an array of"),
        ({"dtype": "int32"}, "is not what was written"),
        ({"shape": [3, 4]}, "is not what was written"),
        ({"shape": [-4, -3]}, r"an array of shape \(-4, -3\)"),
        ({"shape": [4.0, 3]}, "an array of shape"),
        ({"shape": [2**40, 3]}, "is shorter than it was"),
        ({"start": 4}, "is not what was written"),
        ({"start": -1}, "is shorter than it was"),
        ({"start": 10**9}, "is shorter than it was"),
        ({"digest": "0" * 32}, "is not what was written"),
        ({"digest": None}, "is not what was written"),
    ],
)
def test_what_was_not_written_is_refused(change, told, file):
    array = ARRAYS["float32"]
    asked = {"dtype": "float32", "shape": [4, 3], "digest": array_digest(array), "start": 0}
    with pytest.raises(DamagedError, match=told):
        read_array(file, **{**asked, **change})


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "folder", "link"])
def test_damage(damage, file, tmp_path):
    array = ARRAYS["float32"]
    content = file.read_bytes()
    file.unlink()
    if damage == "flipped":
        file.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    elif damage == "cut":
        file.write_bytes(content[: array.nbytes - 1])
    elif damage == "folder":
        file.mkdir()
    elif damage == "link":
        (tmp_path / "elsewhere").write_bytes(content)
        file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DamagedError, match="arrays is"):
        read_array(file, "float32", (4, 3), array_digest(array))


def test_a_file_is_written_whole_or_not_at_all(file):
    def broken():
        yield np.zeros(10_000)
        raise OSError(28, "No space left on device")

    before = file.read_bytes()
    with pytest.raises(OSError, match="No space"):
        write_arrays(file, broken())
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == ["arrays"]
