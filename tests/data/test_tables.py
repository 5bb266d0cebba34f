import logging

import numpy as np
import pytest
from ways import write_shard

from keras_transfer.data import from_directory, from_huggingface, from_table, from_webdataset

Image = pytest.importorskip("PIL.Image")
LABELS = {"a": "bee", "b": "ant", "c": "bee", "d": "ant"}
ROWS = [(f"{name}.png", label) for name, label in LABELS.items()]


@pytest.fixture
def folder(tmp_path):
    """Four photos, and nothing that says what is in them."""
    for number, name in enumerate(LABELS):
        pixels = np.random.default_rng(number).integers(0, 256, (6, 9, 3), "uint8")
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    return tmp_path


@pytest.fixture
def opened(folder):
    def load(table, images=folder, **options):
        return from_table(table, images, **{"image_size": 8, "verbose": 0} | options)

    return load


def order(loader):
    names = [loader.class_names[label] for label in loader.labels]
    return [(loader.file(index).stem, names[index]) for index in range(loader.num_samples)]


IN_ORDER = [("b", "ant"), ("d", "ant"), ("a", "bee"), ("c", "bee")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "file,label\na.png,bee\nb.png,ant\nc.png,bee\nd.png,ant\n"),
        ("t.csv", "\ufeffid;Class Name;n\r\na;bee;1\r\n\r\nb; ant;2\r\nc;bee;3\r\nd;ant;4"),
        ("t.tsv", "photo\tspecies\na\tbee\nb\tant\nc\tbee\nd\tant\n"),
        ("t.csv", "a.png,bee\nb.png,ant\nc.png,bee\nd.png,ant\n"),
        ("t.txt", 'x.jpg|path|"what, it is"\n1|a.png|bee\n2|b.png|ant\n3|c.png|bee\n4|d.png|ant\n'),
    ],
    ids=["comma", "semicolon", "tab", "no header", "pipe"],
)
def test_files(name, text, folder, opened):
    path = folder / name
    if "what" in text:
        text = text.replace("x.jpg", "n")
        options = {"label_column": "what, it is"}
    else:
        options = {}
    path.write_text(text, encoding="utf-8")
    assert order(opened(path, None, **options)) == IN_ORDER


def test_columns_that_were_guessed_are_told(folder, opened, caplog):
    caplog.set_level(logging.INFO)
    opened({"x": [1, 2], "image_id": ["a", "b"], "Species": ["bee", "ant"]})
    assert "a mapping: images from column 'image_id', classes from column 'Species'" in caplog.text
    caplog.clear()
    opened({"x": ["a", "b"], "y": ["bee", "ant"]}, image_column="x", label_column="y")
    assert "column" not in caplog.text


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"u": ["a"], "v": ["bee"]}, r"image_column must be told.*it may be 'u' or 'v'\. Received"),
        ({"u": ["a.png"], "v": ["b.png"], "label": ["x"]}, "image_column must be told.*'u' or 'v'"),
        (
            {"file": ["a"], "class": ["x"], "species": ["y"]},
            "label_column must be told.*'class' or 'spec",
        ),
        ({"file": ["a"], "u": ["x"], "v": ["y"]}, "label_column must be told.*it may be 'u' or 'v'"),
        ({"file": ["a"]}, "label_column must be told.*there is none left"),
        ({"file": ["a"], "label": []}, "columns of one length. Received: file: 1, label: 0"),
    ],
)
def test_columns_that_are_not_clear(columns, message, opened):
    with pytest.raises(ValueError, match=message):
        opened(columns)


@pytest.mark.parametrize("argument", ["image_column", "label_column", "split_column"])
def test_columns_that_are_not_there(argument, opened):
    message = (
        rf"{argument} must be a column of a mapping, which has 'file' or 'species'; .* mean species\?"
    )
    with pytest.raises(ValueError, match=message):
        opened({"file": ["a.png"], "species": ["x"]}, **{argument: "speces"})


def test_frames_whatever_their_index(opened):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(ROWS, columns=["file", "label"], index=[7, 7, -1, 0])
    assert order(opened(frame)) == order(opened(frame.set_index("file"))) == IN_ORDER
    numbered = frame.assign(label=pandas.array([10, 9, 10, None], "Int64"))
    loader = opened(numbered, on_error="skip")
    assert order(loader) == [("b", "9"), ("a", "10"), ("c", "10")]  # and not "10" first
    assert [*loader.skipped.values()] == ["no label"]
    twice = pandas.DataFrame([["a.png", "x", "y"]], columns=["file", "label", "label"])
    with pytest.raises(ValueError, match="one column of each name. Received: 'label' more than once"):
        opened(twice)


def test_frames_of_polars(opened):
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame(ROWS, schema=["file", "label"], orient="row")
    assert order(opened(frame)) == order(opened(frame.lazy())) == IN_ORDER


def test_rows(folder, opened):
    paths = [(folder / name, label) for name, label in ROWS]
    assert order(opened(paths, None)) == order(opened(ROWS)) == IN_ORDER
    assert order(opened([{"path": name, "class": label} for name, label in ROWS])) == IN_ORDER
    with pytest.raises(ValueError, match=r"\(image, label\) pairs.*Received: 'ab' as row 1"):
        opened([("a.png", "bee"), "ab"])


def test_several_folders_are_looked_into(folder, opened):
    (folder / "more").mkdir()
    (folder / "c.png").rename(folder / "more" / "c.png")
    assert order(opened(ROWS, [folder, folder / "more"])) == IN_ORDER


def test_parts(opened):
    frame = {"file": [row[0] for row in ROWS], "label": [row[1] for row in ROWS]}
    frame |= {"split": ["train", "train", "Valid", "train"]}
    train, validation = opened(frame, part="train"), opened(frame, part="val")
    assert (train.num_samples, train.shuffle) == (3, True)
    assert (validation.shuffle, validation.class_names) == (False, ["ant", "bee"])
    assert order(validation) == [("c", "bee")]
    with pytest.raises(
        ValueError, match=r"part must be told, as column 'split' divides .* into train, Va"
    ):
        opened(frame)
    with pytest.raises(ValueError, match="part must be 'train' or 'Valid'. Received: part='test'"):
        opened(frame, part="test")
    del frame["split"]
    with pytest.raises(ValueError, match="split_column must name the column of the parts"):
        opened(frame, part="train")


def test_a_label_in_the_test_only(opened):
    rows = [{"file": name, "label": label, "split": "train"} for name, label in ROWS]
    rows[0] |= {"label": "ants", "split": "test"}
    with pytest.raises(
        ValueError, match=r"no classes that the part for training.*mean ant\?.*ants in col"
    ):
        opened(rows, part="test")
    assert opened(rows, part="train").num_samples == 3


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "at least one row. Received: a list of rows without rows"),
        ([("a.png", "ant"), ("b.png", 3)], r"text or integers, and not both. Received: 'ant' and 3"),
        ([("a.png", 0.5)], "classes, as text or integers. Received: 0.5 of type float"),
        ([("a.png", "")], "label_column must have a class for each image.*which is empty"),
        ([("", "ant")], r"a file in each row.*empty in 1 rows: \[0\]"),
        (
            [("b.png", "ant"), ("b.png", "bee")],
            r"1 of 1 files can't be used.*\(two labels, 'ant' and 'bee'",
        ),
        (
            [("b.png", "ant"), ("bb.png", "ant")],
            r"1 of 2 files .*\(no such file; did you mean b.png\?\)",
        ),
        ([("b.png", "ant"), ("c.png", None)], r"1 of 2 files .*c.png' \(no label\)"),
        ([("b.png", "ant"), ("http://x/c.png", "ant")], r"an address, and no file; fetch it first"),
        (
            [("x/b.png", "ant")],
            r"images must be the folder .* none of the 1 files, of which the first is",
        ),
    ],
)
def test_bad_rows(rows, message, opened):
    with pytest.raises(ValueError, match=message):
        opened(rows)


def test_what_is_left_out(folder, opened, caplog):
    rows = [*ROWS, ("e.png", "bee"), ("a.png", "bee"), ("b.png", "bee")]
    loader = opened(rows, on_error="skip")
    assert order(loader) == [("d", "ant"), ("a", "bee"), ("c", "bee")]
    assert loader.skipped[str(folder / "b.png")] == "two labels, 'ant' and 'bee'"
    assert loader.skipped[str(folder / "e.png")].startswith("no such file")
    assert "2 rows of a list of rows name a file that another one names" in caplog.text
    with pytest.raises(ValueError, match=r"each class must have images; 'crab' has none, as 1 files"):
        opened([*ROWS, ("e.png", "crab")], on_error="skip")


def test_names_without_ending(folder, opened):
    (folder / "17.jpeg").write_bytes((folder / "a.png").read_bytes())
    assert order(opened([(17, "bee"), ("b", "ant")])) == [("b", "ant"), ("17", "bee")]
    (folder / "17.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"\(several files: 17.jpeg, 17.png\)"):
        opened([(17, "bee"), ("b", "ant")])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            b"file,label\na.png,b,c\n",
            "as many cells in each row as in the first, 2.*line 2 of .* with 3",
        ),
        (b"file,label\n", "at least one row"),
        (b"", "at least one row"),
        (b"file,label\n\xff,a\n", "text in UTF-8"),
        (b'file,label\n"a,b\n', "all quotes closed"),
        (b"file,file\na,b\n", "one column of each name"),
    ],
)
def test_bad_files(text, message, folder, opened):
    (folder / "t.csv").write_bytes(text)
    with pytest.raises(ValueError, match=message):
        opened(folder / "t.csv")


def test_what_is_no_table(folder, opened):
    (folder / "labels.csv").touch()
    with pytest.raises(ValueError, match=r"there is no file .*label.csv'; did you mean labels.csv\?"):
        opened(folder / "label.csv")
    with pytest.raises(ValueError, match=r"but a folder; kt.data.from_directory reads folders\."):
        opened(folder)
    (folder / "t.xlsx").touch()
    with pytest.raises(ValueError, match="save it as CSV"):
        opened(folder / "t.xlsx")
    with pytest.raises(TypeError, match="Received: table of type int"):
        opened(3)


# Shards


def shard(folder, members):
    return write_shard(folder / "s.tar", members)


def of_shard(path, **options):
    return from_webdataset(path, **{"image_size": 8, "verbose": 0} | options)


@pytest.fixture
def png(folder):
    return (folder / "a.png").read_bytes()


def test_labels_of_shards(folder, png):
    members = {"x/1.png": png, "x/1.cls": b"10\n", "x/2.png": png, "x/2.cls": b"9", "x/3.txt": b"7"}
    loader = of_shard(shard(folder, members))
    assert order(loader) == [("2", "9"), ("1", "10")]
    assert loader.skipped == {str(folder / "s.tar" / "x" / "3.txt"): "not an image"}
    found = {"1.jpg.png": png, "1.json": b'{"w": 9, "Label": "b"}', "1.txt": b"a caption"}
    assert order(of_shard(shard(folder, found))) == [("1.jpg", "b")]
    assert of_shard(folder / "s.tar", label="txt").class_names == ["a caption"]
    assert of_shard(folder / "s.tar", label_key="w").class_names == ["9"]
    numbers = {"1.png": png, "1.cls": b"01", "2.png": png, "2.cls": b"0"}
    loader = of_shard(shard(folder, numbers), class_names=["bee", "ant", "crab"])
    assert order(loader) == [("2", "bee"), ("1", "ant")]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, "samples with an image"),
        ({"1.cls": b"a"}, "samples with an image"),
        ({"1.png": b""}, "the class of each image, in members that end in 'cls', 'json' or 'txt'"),
        (
            {"1.png": b"", "1.jpg": b"", "1.cls": b"a"},
            "one image in each sample. Received: '1' with 'png' or",
        ),
        ({"1.png": b"", "1.cls": b"\xff"}, "text in UTF-8. Received: '1.cls' in"),
        ({"1.png": b"", "1.json": b"["}, "text in UTF-8, in an object. Received: '1.json' in"),
        (
            {"1.png": b"", "1.cls": b"a"},
            r"1 of 1 files can't be used.*1.png' \(no image of a known format",
        ),
        ({"1.png": b"", "1.cls": b"a", "2.png": b""}, r"2 of 2 files .*2.png' \(no label\)"),
        (
            {"1.png": b"", "1.json": b'{"y": 1}', "2.png": b"", "2.cls": b"a"},
            "text or integers, and not bo",
        ),
    ],
)
def test_bad_shards(members, message, folder):
    with pytest.raises(ValueError, match=message):
        of_shard(shard(folder, members))


def test_shards_that_can_t_be_read(folder, png):
    path = shard(folder, {"1.png": png, "1.cls": b"a"})
    with pytest.raises(ValueError, match=r"class_names must be .* from 0 to 1.*the label 'a'"):
        of_shard(path, class_names=["b", "c"])
    with pytest.raises(ValueError, match=r"there is no file .*t.tar'; did you mean s.tar\?"):
        of_shard(folder / "t.tar")
    with pytest.raises(ValueError, match="there are none"):
        of_shard([])
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(ValueError, match=r"whole and not compressed \(unexpected end of data\)"):
        of_shard(path)


# Data sets of Hugging Face


@pytest.fixture
def rows(folder):
    """A data set, and the module."""
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["bee", "ant"]))
    images = [{"bytes": None, "path": str(folder / name)} for name, _ in ROWS]
    columns = {"image": images, "label": [label for _, label in ROWS]}
    return datasets.Dataset.from_dict(columns, features), datasets


def of_rows(dataset, **options):
    return from_huggingface(dataset, **{"image_size": 8, "verbose": 0} | options)


def test_data_sets_in_memory_and_in_files(rows, folder, monkeypatch):
    dataset, datasets = rows
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.features.Image, "decode_example", None)  # it stays undecoded
    wanted = [("a", "bee"), ("c", "bee"), ("b", "ant"), ("d", "ant")]  # in the order of the ClassLabel
    loader = of_rows(dataset)
    assert order(loader) == order(of_rows(dataset.select([3, 1, 0, 2]))) == wanted
    dataset.save_to_disk(folder / "saved")
    (folder / "parquet").mkdir()
    dataset.to_parquet(folder / "parquet" / "train-0.parquet")
    for path in ("saved", "parquet/train-0.parquet", "parquet"):
        assert of_rows(folder / path).fingerprint() == loader.fingerprint()
    assert order(of_rows(datasets.DatasetDict(train=dataset, valid=dataset), part="val")) == wanted


def test_bad_data_sets(rows, folder):
    dataset, datasets = rows
    two = datasets.DatasetDict(train=dataset, test=dataset)
    for given, options, message in (
        (two, {}, "part must be told, as the data set is divided into train, test"),
        (two, {"part": "val"}, "part must be 'train' or 'test'. Received: part='val'"),
        (dataset, {"part": "val"}, "part must be None, as the data set isn't divided"),
        (dataset, {"label_column": "lable"}, r"which has 'image' or 'label'; did you mean label\?"),
        (dataset.select([]), {}, "dataset must have rows"),
        (folder, {}, "a folder of save_to_disk, a parquet file or a folder of these"),
    ):
        with pytest.raises(ValueError, match=message):
            of_rows(given, **options)
    with pytest.raises(
        TypeError, match="IterableDataset that is streamed; load it without streaming=True"
    ):
        of_rows(dataset.to_iterable_dataset())
    with pytest.raises(TypeError, match="Received: dataset of type int"):
        of_rows(3)
    (folder / "b.png").unlink()
    with pytest.raises(ValueError, match=r"row 1 \(.*b.png\)' \(No such file or directory\)"):
        of_rows(dataset)
    assert of_rows(dataset, on_error="skip").num_samples == 3


class TestSeveralLabels:
    """Rows of 0 and 1, from text with a separator or from a column a class."""

    SEPARATED = (("b.png", "ant;bee"), ("a.png", " bee"), ("d.png", "cow ; ant"), ("c.png", ""))

    @pytest.fixture
    def separated(self):
        return {"file": [name for name, _ in self.SEPARATED], "tags": [x for _, x in self.SEPARATED]}

    def test_text_with_a_separator(self, opened, separated):
        loader = opened(separated, label_column="tags", label_separator=";")
        assert loader.class_names == ["ant", "bee", "cow"]
        assert [loader.file(index).stem for index in range(4)] == [*"abcd"]
        np.testing.assert_array_equal(loader.labels, [[0, 1, 0], [1, 1, 0], [0, 0, 0], [1, 0, 1]])
        assert loader.multi_label
        assert next(iter(loader))[1].shape == (4, 3)

    def test_none_of_the_labels_is_told(self, opened, separated, caplog):
        opened(separated, label_column="tags", label_separator=";")
        assert "1 of 4 rows of a mapping have none of the labels" in caplog.text

    @pytest.mark.parametrize("yes", [1, 1.0, "1", True])
    def test_columns_of_0_and_1(self, opened, yes):
        table = {"file": ["b", "a", "c"], "bee": [yes, yes, 0], "ant": [yes, 0, "0"], "n": [7, 8, 9]}
        loader = opened(table, label_column=["bee", "ant"])
        assert loader.class_names == ["bee", "ant"]
        np.testing.assert_array_equal(loader.labels, [[1, 0], [1, 1], [0, 0]])

    def test_parts(self, opened, separated):
        separated["split"] = ["train", "test", "train", "train"]
        options = {"label_column": "tags", "label_separator": ";"}
        assert opened(separated, part="test", **options).class_names == ["ant", "bee", "cow"]
        separated["tags"][1] = "dog"
        with pytest.raises(ValueError, match=r"part='test' must have no classes .*Received: dog in col"):
            opened(separated, part="test", **options)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                {"label_separator": "|"},
                r"stand in some cells.*; ';' or ' ' does.*such as 'ant;bee'",
            ),
            ({"label_separator": ""}, r"label_separator must be what stands between two labels"),
            ({"label_column": ["tags", "n"]}, r"name columns of 0 and 1.*'ant;bee' in column 'tags'"),
            ({"label_column": ["n"]}, r"at least two different names of columns of 0 and 1"),
            ({"label_column": ["n", "m"]}, r"label_column must be a column of a mapping.*='m'"),
            ({"label_column": ["n", "k"], "label_separator": ";"}, r"must be None where label_column"),
            ({"label_column": ["file", "n"], "image_column": "file"}, r"must be two columns"),
        ],
    )
    def test_what_is_wrong(self, opened, separated, options, message):
        separated |= {"n": [0, 1, 1, 0], "k": [1, 1, 1, 1]}
        with pytest.raises(ValueError, match=message):
            opened(separated, **{"label_column": "tags"} | options)

    def test_a_cell_of_a_column_that_is_empty(self, opened):
        table = {"file": ["a", "b"], "bee": [1, None], "ant": [1, 0]}
        with pytest.raises(ValueError, match=r"1 of 2 files can't be used.*b\.png' \(no label\)"):
            opened(table, label_column=["bee", "ant"])
        assert opened(table, label_column=["bee", "ant"], on_error="skip").num_samples == 1

    def test_two_rows_of_one_file(self, opened):
        rows = {"file": ["a", "a"], "label": ["bee;ant", "bee"]}
        with pytest.raises(ValueError, match=r"two labels, \['bee'\] and \['ant', 'bee'\]"):
            opened(rows, label_separator=";")


def test_a_file_in_the_folders_of_several_classes(folder):
    for name, files in {"ant": "ab", "bee": "bc"}.items():
        (folder / "classes" / name).mkdir(parents=True)
        for file in files:
            content = (folder / f"{file}.png").read_bytes()
            (folder / "classes" / name / f"{file}.png").write_bytes(content)
            # Of one name, and another image.
            other = (folder / f"{'c' if name == 'ant' else 'd'}.png").read_bytes()
            (folder / "classes" / name / "same.png").write_bytes(other)
    loader = from_directory(folder / "classes", image_size=8, multi_label=True, verbose=0)
    found = [loader.file(index).stem for index in range(loader.num_samples)]
    assert found == ["a", "b", "same", "c", "same"]
    np.testing.assert_array_equal(loader.labels, [[1, 0], [1, 1], [1, 0], [0, 1], [0, 1]])
    assert loader.class_names == ["ant", "bee"]
    assert from_directory(folder / "classes", image_size=8, verbose=0).num_samples == 6


# Groups


def test_a_column_of_groups(opened):
    rows = [{"file": name, "label": label} for name, label in ROWS]
    for row, patient in zip(rows, ["p2", "p1", "p2", None], strict=True):
        row["patient"] = patient
    loader = opened(rows, group_column="patient")
    assert order(loader) == IN_ORDER
    alone = str(loader.file(1))  # of no patient, and so of no other's
    assert loader.groups.tolist() == ["p1", alone, "p2", "p2"]
    assert opened(rows).groups is None
    assert opened(rows, group_pattern=r"([ab]|[cd])\.png").groups.tolist() == ["b", "d", "a", "c"]
    with pytest.raises(ValueError, match=r"group_column must be a column .*did you mean patient\?"):
        opened(rows, group_column="patients")
    with pytest.raises(ValueError, match="group_pattern must be None where group_column tells"):
        opened(rows, group_column="patient", group_pattern="(.)")
    rows.append(rows[0] | {"patient": "p1"})
    with pytest.raises(ValueError, match="two groups, 'p2' and 'p1'"):
        opened(rows, group_column="patient")
