import errno
import os
import stat
import sys
import tempfile

import pytest

from keras_transfer._lib.files import check_writable, remove_unfinished, replacing, writable_directory


@pytest.fixture
def umask():
    """Set the process's umask, and put it back."""
    previous = os.umask(0o022)
    yield os.umask
    os.umask(previous)


def test_the_file_is_written(tmp_path):
    path = tmp_path / "model.keras"
    with replacing(path) as temporary:
        assert (temporary.parent, temporary.suffix) == (tmp_path, ".keras")
        assert temporary != path
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_is_replaced_in_one_step(tmp_path):
    path = tmp_path / "model.keras"
    path.write_text("old")
    with path.open() as reader, replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert reader.read() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_no_other(error, tmp_path):
    path = tmp_path / "model.keras"
    path.write_text("old")

    def write(temporary):
        temporary.write_text("half of")
        raise error

    with pytest.raises(error), replacing(path) as temporary:
        write(temporary)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file(monkeypatch, tmp_path):
    path = tmp_path / "model.keras"
    path.write_text("old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"), replacing(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_of_that_name_stays(tmp_path):
    path = tmp_path / "model.keras"
    path.mkdir()
    with pytest.raises(OSError, match=r"model\.keras"), replacing(path) as temporary:
        temporary.write_text("new")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of POSIX")
@pytest.mark.parametrize(("mask", "expected"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(mask, expected, umask, tmp_path):
    umask(mask)
    with replacing(tmp_path / "model.keras") as temporary:
        temporary.write_text("new")
    assert stat.S_IMODE((tmp_path / "model.keras").stat().st_mode) == expected
    assert umask(mask) == mask  # as it was


def test_the_umask_is_never_changed(monkeypatch, tmp_path):
    # For a moment other threads would make files that everybody may write.
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the umask was changed"))
    with replacing(tmp_path / "model.keras") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "model.keras").read_text() == "new"


def test_what_a_killed_process_has_left_is_known(tmp_path):
    path = tmp_path / "model.keras"
    with replacing(path) as temporary:
        temporary.write_text("new")
        (tmp_path / "model.keras.txt").write_text("other")
        remove_unfinished(path)
        assert not temporary.exists()
        temporary.write_text("new")
    assert {each.name for each in tmp_path.iterdir()} == {"model.keras", "model.keras.txt"}


def test_a_directory_is_made_with_its_parents(tmp_path):
    wanted = tmp_path / "a" / "b"
    for given in (wanted, str(wanted)):  # the second time it is there
        assert writable_directory(given, "output") == wanted
    assert wanted.is_dir()
    assert list(wanted.iterdir()) == []


@pytest.mark.parametrize("below", ["", "a", "a/b"])
def test_a_directory_that_is_or_lies_below_a_file(below, tmp_path):
    file = tmp_path / "file"
    file.write_text("content")
    with pytest.raises(ValueError, match=r"output must be a folder .* Received: output='.*file"):
        writable_directory(file / below, "output")
    assert file.read_text() == "content"


def test_a_directory_that_cannot_be_written(monkeypatch, tmp_path):
    def refused(*arguments, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refused)  # root may write everywhere
    with pytest.raises(ValueError, match=r"can be written .*Permission denied.*Received: output="):
        writable_directory(tmp_path, "output")


def test_what_can_be_written_is_not_made(tmp_path):
    assert check_writable(tmp_path / "new" / "deep" / "file.html", "path").name == "file.html"
    assert not list(tmp_path.iterdir())
    (tmp_path / "there").write_text("old")
    check_writable(tmp_path / "there", "path")
    with pytest.raises(ValueError, match=r"output must be where.* is no folder.*Received: output="):
        check_writable(tmp_path / "there" / "below" / "file", "output")
