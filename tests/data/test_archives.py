import dataclasses
import hashlib
import io
import re
import stat
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor

import keras
import pytest
from small_archives import files, member, sha256, write_tar, write_zip

from keras_transfer.data import from_directory
from keras_transfer.data.directory import folder_of
from keras_transfer.data.sets import archives
from keras_transfer.data.sets.archives import Download, ImageArchive, fetch, unpack, unpacked

IMAGES = {f"jpg/{n}.jpg": f"image {n}".encode() for n in range(4)}
NAMES = ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]


@pytest.fixture
def folder(tmp_path):
    """The folder of a data set, which is not there yet."""
    return tmp_path / "home" / "datasets" / "zoo"


@pytest.fixture
def published(tmp_path):
    """A function that publishes an archive of four images, and says where."""
    (tmp_path / "site").mkdir()

    def publish(contents=IMAGES, extra=(), mode="w:gz", image=r"[0-9]\.jpg"):
        path = tmp_path / "site" / "zoo.tgz"
        write_tar(path, contents, extra, mode)
        return ImageArchive(
            path.as_uri(), sha256(path), "jpg", re.compile(image), num_images=4, notices=("LICENSE.txt",)
        )

    return publish


@pytest.fixture
def labels(tmp_path):
    """A small file that is published."""
    path = tmp_path / "labels.mat"
    path.write_bytes(b"1, 2, 3")
    return Download(path.as_uri(), sha256(path))


@pytest.fixture
def nothing_fetched(monkeypatch):
    def get_file(*arguments, **named):
        raise AssertionError("nothing needs to be fetched")

    monkeypatch.setattr(keras.utils, "get_file", get_file)


def interrupted(monkeypatch, owner, name, after):
    """Let a function work so many times, and then stop the program."""
    calls, function = [], getattr(owner, name)

    def call(*arguments, **named):
        calls.append(arguments)
        if len(calls) > after:
            raise KeyboardInterrupt
        return function(*arguments, **named)

    monkeypatch.setattr(owner, name, call)


class TestFetch:
    def test_once(self, folder, labels, tmp_path):
        path = fetch(labels, folder)
        assert path == folder / "labels.mat"
        assert path.read_bytes() == b"1, 2, 3"
        (tmp_path / "labels.mat").unlink()
        assert fetch(labels, folder) == path
        assert files(folder) == ["labels.mat"]

    @pytest.mark.usefixtures("nothing_fetched")
    def test_a_file_put_there_by_hand(self, folder, labels):
        folder.mkdir(parents=True)
        (folder / "labels.mat").write_bytes(b"1, 2, 3")
        fetch(labels, folder)
        assert [path.name for path in folder.iterdir()] == ["labels.mat"]

    @pytest.mark.usefixtures("nothing_fetched")
    def test_another_file_of_that_name(self, folder, labels):
        folder.mkdir(parents=True)
        (folder / "labels.mat").write_bytes(b"mine")
        with pytest.raises(ValueError, match=r"labels.mat' must have the SHA-256 checksum") as error:
            fetch(labels, folder)
        assert labels.checksum in str(error.value)
        found = sha256(folder / "labels.mat")
        assert str(error.value).endswith(
            f"; remove it to have it fetched again. Received: 4 bytes with the checksum {found}"
        )
        assert (folder / "labels.mat").read_bytes() == b"mine"

    def test_another_file_on_the_network(self, folder, labels):
        folder.mkdir(parents=True)
        (folder / "other.mat").write_bytes(b"mine")
        with pytest.raises(ValueError, match=r"file file:.*labels.mat must have .* not kept\. Received"):
            fetch(dataclasses.replace(labels, checksum="0" * 64), folder)
        assert files(folder) == ["other.mat"]

    def test_no_such_file_on_the_network(self, folder, labels, tmp_path):
        (tmp_path / "labels.mat").unlink()
        with pytest.raises(ConnectionError, match="fetch labels.mat of the data set zoo from") as error:
            fetch(labels, folder)
        for part in (labels.url, str(folder), "TFDS_DATA_DIR", "Received: "):
            assert part in str(error.value)
        assert files(folder) == []

    def test_interrupted(self, folder, labels, monkeypatch):
        interrupted(monkeypatch, archives.os, "replace", 0)
        with pytest.raises(KeyboardInterrupt):
            fetch(labels, folder)
        assert files(folder) == []
        monkeypatch.undo()
        assert fetch(labels, folder).read_bytes() == b"1, 2, 3"


class TestUnpack:
    @pytest.mark.parametrize("mode", ["w:gz", "w", "w:xz"])
    def test_images(self, folder, published, mode):
        assert unpack(published(mode=mode), folder) == NAMES
        assert files(folder) == [*IMAGES, "zoo.tgz"]
        for name, content in IMAGES.items():
            assert (folder / name).read_bytes() == content

    @pytest.mark.usefixtures("nothing_fetched")
    def test_once(self, folder, published):
        archive = published()
        write_tar_here = folder / "zoo.tgz"
        folder.mkdir(parents=True)
        write_tar_here.write_bytes((folder.parents[2] / "site" / "zoo.tgz").read_bytes())
        assert unpack(archive, folder) == NAMES
        write_tar_here.unlink()  # 345 MB that somebody may want back
        before = sorted(folder.rglob("*"))
        assert unpack(archive, folder) == NAMES
        assert sorted(folder.rglob("*")) == before

    def test_only_what_is_wanted(self, folder, published):
        others = [
            "jpg/LICENSE.txt",
            "jpg/README",
            "jpg/deep/4.jpg",
            "other/4.jpg",
            "4.jpg",
            "jpg/44.jpg",
        ]
        assert unpack(published(dict.fromkeys(others, b"text") | IMAGES), folder) == NAMES
        assert files(folder) == [*IMAGES, "jpg/LICENSE.txt", "zoo.tgz"]

    def test_names_that_begin_with_a_dot(self, folder, published):
        assert unpack(published({f"./{name}": IMAGES[name] for name in IMAGES}), folder) == NAMES

    def test_folders_below(self, folder, published):
        contents = {name.replace("/", "/ants/"): content for name, content in IMAGES.items()}
        names = unpack(published(contents, image=r"ants/[0-9]\.jpg"), folder)
        assert names == [f"ants/{name}" for name in NAMES]

    @pytest.mark.parametrize(
        "name",
        [
            "../1.jpg",
            "jpg/../../1.jpg",
            "/jpg/1.jpg",
            "../jpg/1.jpg",
            "jpg/..",
            "jpg/../jpg/1.jpg",
            "..",
        ],
    )
    def test_paths_that_climb_out(self, folder, published, name, tmp_path):
        archive = published(IMAGES | {name: b"evil"})
        before = [path for path in files(tmp_path) if "home" not in path]
        assert unpack(archive, folder) == NAMES
        assert (folder / "jpg" / "1.jpg").read_bytes() == b"image 1"
        assert [path for path in files(tmp_path) if "home" not in path] == before
        assert files(folder) == [*IMAGES, "zoo.tgz"]

    def test_a_folder_that_is_a_link(self, folder, published, tmp_path):
        (tmp_path / "outside").mkdir()
        link = member("jpg", tarfile.SYMTYPE, str(tmp_path / "outside"))
        assert unpack(published(extra=[link]), folder) == NAMES
        assert files(tmp_path / "outside") == []
        assert not (folder / "jpg").is_symlink()

    @pytest.mark.parametrize(
        ("kind", "link"),
        [
            (tarfile.SYMTYPE, "0.jpg"),
            (tarfile.SYMTYPE, "/etc/hostname"),
            (tarfile.LNKTYPE, "jpg/0.jpg"),
            (tarfile.FIFOTYPE, ""),
            (tarfile.CHRTYPE, ""),
            (tarfile.BLKTYPE, ""),
            (tarfile.DIRTYPE, ""),
        ],
    )
    def test_what_is_no_file(self, folder, published, kind, link):
        contents = {name: content for name, content in IMAGES.items() if name != "jpg/3.jpg"}
        archive = published(contents, extra=[member("jpg/3.jpg", kind, link)])
        with pytest.raises(ValueError, match=r"must hold plain files .*Received: 'jpg/3.jpg' of type"):
            unpack(archive, folder)
        assert files(folder) == ["zoo.tgz"]

    @pytest.mark.parametrize(("limit", "value"), [("MAX_FILE_BYTES", 6), ("MAX_BYTES", 27)])
    def test_too_large(self, folder, published, monkeypatch, limit, value):
        archive = published()
        monkeypatch.setattr(archives, limit, value)
        with pytest.raises(ValueError, match=f"at most .*{value}.*Received: 'jpg/.* 7 bytes, "):
            unpack(archive, folder)
        assert files(folder) == ["zoo.tgz"]
        monkeypatch.setattr(archives, limit, value + 1)
        assert unpack(archive, folder) == NAMES

    def test_the_limits_leave_room_for_the_data_sets(self):
        # The archives have 229 and 345 MB, and JPEGs are as large inside them as outside.
        assert archives.MAX_BYTES > 500e6
        assert archives.MAX_FILE_BYTES > 5e6

    @pytest.mark.parametrize("number", [0, 3, 5])
    def test_another_number_of_images(self, folder, published, number):
        archive = published({f"jpg/{n}.jpg": b"image" for n in range(number)} | {"jpg/x": b""})
        with pytest.raises(
            ValueError, match=rf"zoo.tgz' must hold 4 images; nothing.*: {number} images$"
        ):
            unpack(archive, folder)
        assert files(folder) == ["zoo.tgz"]

    def test_images_that_went_missing_later(self, folder, published):
        archive = published()
        unpack(archive, folder)
        (folder / "jpg" / "2.jpg").unlink()
        with pytest.raises(ValueError, match=r"jpg' must hold 4 images; remove the folder.*: 3 images$"):
            unpack(archive, folder)
        assert files(folder) == ["jpg/0.jpg", "jpg/1.jpg", "jpg/3.jpg", "zoo.tgz"]

    @pytest.mark.parametrize("after", [0, 2])
    def test_interrupted(self, folder, published, monkeypatch, after):
        archive = published()
        interrupted(monkeypatch, tarfile.TarFile, "extract", after)
        with pytest.raises(KeyboardInterrupt):
            unpack(archive, folder)
        assert not (folder / "jpg").exists()
        assert files(folder) == ["zoo.tgz"]
        monkeypatch.undo()
        assert unpack(archive, folder) == NAMES

    def test_after_a_process_that_was_killed(self, folder, published):
        partial = folder / ".jpg.partial" / "jpg"
        partial.mkdir(parents=True)
        (partial / "0.jpg").write_bytes(b"half an im")
        (partial / "9.jpg").write_bytes(b"of an older archive")
        (folder / ".jpg.lock").touch()
        assert unpack(published(), folder) == NAMES
        assert files(folder) == [*IMAGES, "zoo.tgz"]
        assert (folder / "jpg" / "0.jpg").read_bytes() == b"image 0"

    def test_two_at_once(self, folder, published, monkeypatch):
        archive, asked, get_file = published(), [], keras.utils.get_file

        def counting(*arguments, **named):
            asked.append(arguments)
            return get_file(*arguments, **named)

        monkeypatch.setattr(keras.utils, "get_file", counting)
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(lambda _: unpack(archive, folder), range(4))) == [NAMES] * 4
        assert len(asked) == 1


class TestZip:
    @pytest.fixture
    def published_zip(self, tmp_path):
        (tmp_path / "site").mkdir()

        def publish(contents=IMAGES, kinds=()):
            path = tmp_path / "site" / "zoo.zip"
            write_zip(path, contents, kinds)
            image = re.compile(r"[0-9]\.jpg")
            return ImageArchive(path.as_uri(), sha256(path), "jpg", image, num_images=4)

        return publish

    def test_images(self, folder, published_zip):
        contents = IMAGES | {"jpg/README": b"text", "other/4.jpg": b"image", "jpg/44.jpg": b"image"}
        assert unpack(published_zip(contents), folder) == NAMES
        assert files(folder) == [*IMAGES, "zoo.zip"]
        for name, content in IMAGES.items():
            assert (folder / name).read_bytes() == content

    @pytest.mark.parametrize("name", ["../1.jpg", "jpg/../../1.jpg", "/jpg/1.jpg", "jpg\\..\\..\\1.jpg"])
    def test_paths_that_climb_out(self, folder, published_zip, name, tmp_path):
        archive = published_zip(IMAGES | {name: b"evil"})
        assert unpack(archive, folder) == NAMES
        assert files(folder) == [*IMAGES, "zoo.zip"]
        assert files(tmp_path / "site") == ["zoo.zip"]

    @pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFDIR, stat.S_IFIFO])
    def test_what_is_no_file(self, folder, published_zip, kind):
        archive = published_zip(kinds={"jpg/3.jpg": kind | 0o777})
        with pytest.raises(ValueError, match=r"plain files .*Received: 'jpg/3.jpg' of type 0o"):
            unpack(archive, folder)
        assert files(folder) == ["zoo.zip"]

    @pytest.mark.parametrize(("limit", "value"), [("MAX_FILE_BYTES", 6), ("MAX_BYTES", 27)])
    def test_too_large(self, folder, published_zip, monkeypatch, limit, value):
        archive = published_zip()
        monkeypatch.setattr(archives, limit, value)
        with pytest.raises(ValueError, match=f"at most .*{value}.*Received: 'jpg/.* 7 bytes, "):
            unpack(archive, folder)
        assert files(folder) == ["zoo.zip"]

    def test_sha1(self, folder, published_zip, tmp_path):
        archive = published_zip()
        right = hashlib.sha1((tmp_path / "site" / "zoo.zip").read_bytes()).hexdigest()
        wrong = dataclasses.replace(archive, checksum="0" * 40)
        with pytest.raises(ValueError, match=f"must have the SHA-1 checksum 0000.* checksum {right}$"):
            unpack(wrong, folder)
        assert files(folder) == []
        assert unpack(dataclasses.replace(archive, checksum=right), folder) == NAMES

    def test_advice_where_tfds_has_no_such_data(self, folder, published_zip, tmp_path):
        archive = dataclasses.replace(published_zip(), in_tfds=False)
        (tmp_path / "site" / "zoo.zip").unlink()
        with pytest.raises(ConnectionError, match="put that file into the folder") as error:
            unpack(archive, folder)
        assert "TFDS" not in str(error.value)


def test_nothing_is_unpacked_of_another_file(folder, published, monkeypatch):
    archive = published()
    folder.mkdir(parents=True)
    with tarfile.open(folder / "zoo.tgz", "w:gz") as tar:
        for name in IMAGES:
            tar.addfile(member(name, size=4), io.BytesIO(b"evil"))
    monkeypatch.setattr(tarfile, "open", lambda *arguments: pytest.fail("was opened"))
    with pytest.raises(ValueError, match="must have the SHA-256 checksum"):
        unpack(archive, folder)
    assert files(folder) == ["zoo.tgz"]


class TestUnpacked:
    """Archives that somebody has, of which nobody knows what is in them."""

    @pytest.fixture
    def home(self, tmp_path, monkeypatch):
        monkeypatch.setattr(keras.src.backend.config, "_KERAS_DIR", str(tmp_path / "home"))
        return tmp_path / "home"

    @pytest.fixture(params=["zip", "tgz", "tar"])
    def packed(self, request, tmp_path):
        """A function that packs files, and nothing else."""

        def pack(contents):
            path = tmp_path / f"some.{request.param}"
            if request.param == "zip":
                with zipfile.ZipFile(path, "w") as archive:
                    for name, content in contents.items():
                        archive.writestr(zipfile.ZipInfo(name), content)
                return path
            with tarfile.open(path, "w:gz" if request.param == "tgz" else "w") as tar:
                for name, content in contents.items():
                    tar.addfile(member(name, size=len(content)), io.BytesIO(content))
            return path

        return pack

    def test_once_and_all_of_it(self, packed, home, monkeypatch):
        path = packed(IMAGES | {"LICENSE": b"free"})
        found = unpacked(path)
        assert files(found) == ["LICENSE", *IMAGES]
        assert found.is_relative_to(home)
        monkeypatch.setattr(archives, "_extract", None)
        assert unpacked(path) == found

    @pytest.mark.parametrize(
        "name", ["../1.jpg", "a/../../1.jpg", "/tmp/1.jpg", "a\\..\\..\\1.jpg", "C:/1"]
    )
    def test_names_that_lead_out(self, packed, home, name):
        path = packed(IMAGES | {name: b"evil"})
        with pytest.raises(ValueError, match="may be meant to write over others") as error:
            unpacked(path)
        assert f"Received: {name!r} in" in str(error.value)
        assert files(home) == []

    @pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
    def test_what_is_no_file(self, home, tmp_path, kind):
        write_tar(tmp_path / "some.tar", IMAGES, [member("x", kind, "/etc/passwd")], "w")
        with pytest.raises(ValueError, match="must hold plain files .*Received: 'x' of type"):
            unpacked(tmp_path / "some.tar")
        assert files(home) == []

    def test_what_would_fill_the_disk(self, home, tmp_path, monkeypatch):
        monkeypatch.setattr(archives, "MAX_BYTES", 1000)
        contents = {f"a/{number}.bmp": bytes(20_000) for number in range(3)}
        write_zip(tmp_path / "some.zip", contents)
        write_tar(tmp_path / "some.tgz", contents)
        for name in ("some.zip", "some.tgz"):
            with pytest.raises(
                ValueError, match=r"plain files of at most [\d,]+ bytes.*Received: '.*.bmp'"
            ):
                unpacked(tmp_path / name)
        assert files(home) == []
        write_tar(tmp_path / "some.tar", contents, mode="w")
        assert files(unpacked(tmp_path / "some.tar")) == sorted(contents)

    def test_damaged(self, packed, home):
        path = packed({"a/1.png": bytes(range(256)) * 9})
        for content in (path.read_bytes()[:700], b"", b"no archive" * 99):
            path.write_bytes(content[: len(content) // 2])
            with pytest.raises(ValueError, match=r"must be a whole zip or tar \("):
                unpacked(path)
        assert files(home) == []

    def test_a_folder_that_was_packed_with_its_parts(self, packed, home):
        contents = {f"photos/{part}/{name}/1.png": b"" for part in ("train", "val") for name in "ab"}
        path = packed(contents | {"__MACOSX/photos/._x": b""})
        assert folder_of(path).name == "photos"
        assert [each.name for each in folder_of(path).iterdir()] != []
        with pytest.raises(ValueError, match=r"is divided into train, val: take one of these"):
            from_directory(path, image_size=8)
