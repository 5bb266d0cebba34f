"""Files of rows: whole or not at all, known by their bytes."""

import ml_dtypes
import numpy as np
import pytest

from keras_transfer._lib.arrays import array_digest
from keras_transfer.features.cache.shards import DTYPES, is_shard, open_shard, whole_shards, write_shard

FLOAT = np.dtype("float32")
ROWS = np.random.default_rng(0).random((4, 3, 2), "float32")


def whole(folder, plan=((0, 4),), shape=(3, 2), dtype=FLOAT):
    return whole_shards(folder, list(plan), shape, dtype)


@pytest.mark.parametrize("name", DTYPES)
def test_rows_come_back_as_they_were(tmp_path, name):
    rows = ROWS.astype(DTYPES[name])
    path = write_shard(tmp_path, 4, rows)
    assert whole(tmp_path, [(0, 4), (4, 8)], dtype=DTYPES[name]) == {(4, 8): path}
    read = open_shard(path, (4, 8), (3, 2), DTYPES[name])
    assert read.dtype == DTYPES[name]
    assert isinstance(read, np.memmap)
    np.testing.assert_array_equal(read, rows)
    assert (name == "bfloat16") == (read.dtype == ml_dtypes.bfloat16)


def test_rows_in_any_layout(tmp_path):
    rows = np.asfortranarray(ROWS)[::-1]
    read = open_shard(write_shard(tmp_path, 0, rows), (0, 4), (3, 2), FLOAT)
    np.testing.assert_array_equal(read, rows)


def test_a_name_tells_rows_and_bytes(tmp_path):
    path = write_shard(tmp_path, 0, ROWS)
    assert is_shard(path)
    assert path.name.startswith("0000000000-0000000004.")
    assert write_shard(tmp_path, 0, ROWS) == path
    assert write_shard(tmp_path, 0, ROWS + 1) != path


@pytest.mark.parametrize("where", [0, 20, -1])
def test_a_flipped_byte_is_seen(tmp_path, where):
    path = write_shard(tmp_path, 0, ROWS)
    data = bytearray(path.read_bytes())
    data[where] ^= 1
    path.write_bytes(data)
    assert whole(tmp_path) == {}
    assert not path.exists()


def test_a_truncated_file_is_seen(tmp_path):
    path = write_shard(tmp_path, 0, ROWS)
    for length in (path.stat().st_size - 1, 10, 0):
        path.write_bytes(path.read_bytes()[:length])
        assert whole(tmp_path) == {}
        path.touch()


@pytest.mark.parametrize(
    "wanted",
    [{"plan": [(0, 2)]}, {"shape": (6,)}, {"dtype": np.dtype("float16")}],
)
def test_rows_of_another_kind_are_removed(tmp_path, wanted):
    path = write_shard(tmp_path, 0, ROWS)
    assert whole(tmp_path, **wanted) == {}
    assert not path.exists()


def named(folder, data):
    """Give a file of these bytes the name of rows with the bytes that it begins with."""
    rows = np.frombuffer(data.ljust(ROWS.nbytes, b"\0")[: ROWS.nbytes], FLOAT).reshape(ROWS.shape)
    path = folder / f"0000000000-0000000004.{array_digest(rows)}.bin"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("hostile", ["pickle", "archive", "nothing", "text", "more"])
def test_bytes_that_are_no_array(tmp_path, hostile):
    """Also where the name fits them: nothing is unpickled."""
    file = tmp_path / "made"
    with file.open("wb") as opened:
        if hostile == "pickle":
            np.save(opened, np.array([{"a": 1}] * 4, object), allow_pickle=True)
        elif hostile == "archive":
            np.savez(opened, ROWS)
        elif hostile == "more":
            opened.write(ROWS.tobytes() + b"\0")
        elif hostile == "text":
            opened.write(b"\x93NUMPY\x01\x00\x10\x00__import__('os')\n")
    path = named(tmp_path, file.read_bytes())
    assert whole(tmp_path) == {}
    assert not path.exists()


def test_a_link_is_not_followed(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    folder = tmp_path / "folder"
    folder.mkdir()
    target = write_shard(elsewhere, 0, ROWS)
    link = folder / target.name
    link.symlink_to(target)
    assert whole(folder) == {}
    assert not link.is_symlink()
    np.testing.assert_array_equal(open_shard(target, (0, 4), (3, 2), FLOAT), ROWS)


def test_what_a_killed_process_left_is_removed(tmp_path):
    name = write_shard(tmp_path, 0, ROWS).stem
    left = tmp_path / f".{name}-abcd1234.bin"
    left.write_bytes(b"half")
    assert is_shard(left)
    assert list(whole(tmp_path)) == [(0, 4)]
    assert not left.exists()


def test_other_files_are_left_alone(tmp_path):
    names = ["notes.txt", "0-4.bin", f"0000000000-0000000004.{'g' * 32}.bin", ".hidden"]
    for name in names:
        (tmp_path / name).write_text("mine")
    assert whole(tmp_path) == {}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_one_file_for_a_range(tmp_path):
    write_shard(tmp_path, 0, ROWS)
    write_shard(tmp_path, 0, ROWS + 1)
    assert len(whole(tmp_path)) == 1
    assert len(list(tmp_path.iterdir())) == 1
