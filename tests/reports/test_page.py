"""The report: what stands in it, that nothing in it is executed, and what it refuses."""

import dataclasses
import html.parser
import re
import shutil
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_transfer as kt
from keras_transfer.reports.page import _duration

for package in ("jinja2", "matplotlib", "PIL", "sklearn"):
    pytest.importorskip(package)
chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

SIZE = 8
SCRIPT = "<script>alert(1)</script>"
# What would break out of text, out of an attribute, or out of a line.
HOSTILE = [SCRIPT, "\"><img src=x onerror='alert(2)'>", "{{ 7 * 7 }} & \n&amp; $x$", "long " * 40]


def data(classes, per_class=6, seed=0):
    """Return noise whose brightness tells the class."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(classes), per_class)
    shade = (160 * y / max(classes - 1, 1)).astype(int)
    x = rng.integers(0, 90, (len(y), SIZE, SIZE, 3)) + shade[:, None, None, None]
    return x.astype("uint8"), y


def network(classes, names=None):
    """Return a small classifier."""
    image = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu", name="block1_conv1")(image)
    backbone = keras.Model(image, x)
    scaled = keras.layers.Rescaling(1 / 255)
    return kt.classifier(backbone, classes, class_names=names, preprocessing=scaled, seed=0)


def train(classes=3, names=None, validation=True):
    """Return the result of two phases, and the images."""
    x, y = data(classes)
    keras.utils.set_random_seed(0)
    model = network(classes, names)
    phases = [kt.Phase("head", 2, learning_rate=0.1), kt.Phase("everything", 1, train="all")]
    return kt.fine_tune(model, (x, y), (x, y) if validation else None, phases, verbose=0), (x, y)


def plain(text):
    """Return a text with one common space wherever there is space."""
    return " ".join(text.split())


class Page(html.parser.HTMLParser):
    """A page as a reader sees it: its text, its tables, and its elements with their attributes."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.words, self.rows = [], [], []
        self._quiet, self._cell = False, False
        self.source = Path(path).read_text(encoding="utf-8")
        self.feed(self.source)
        self.text = plain(" ".join(self.words))

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._quiet = tag == "style"
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self._cell = True

    def handle_endtag(self, tag):
        self._quiet, self._cell = False, self._cell and tag not in ("td", "th")

    def handle_data(self, data):
        if not self._quiet:
            self.words.append(data)
            if self._cell:
                self.rows[-1][-1] += data.strip()

    def row(self, first):
        """Return the cells of the rows that begin with a text."""
        return [[plain(cell) for cell in row[1:]] for row in self.rows if row and row[0] == first]


@pytest.fixture(scope="module")
def run():
    return train(names=["ant", "bee", "wasp"])


@pytest.fixture(scope="module")
def page(run, tmp_path_factory):
    result, images = run
    path = tmp_path_factory.mktemp("page") / "new folder" / "report.html"
    loader = kt.Loader(images, augmentation="light", class_names=["ant", "bee", "wasp"])
    command = "python make.py 'a b'"
    assert kt.report(result, loader, path, train=loader, title="My run", command=command) == path
    return Page(path)


def test_scores_stand_in_it(run, page):
    result, images = run
    found = kt.evaluation.evaluate(result.model, images, verbose=0)
    assert f"{100 * found.accuracy:.1f} % accuracy" in page.text
    assert page.row("ant")[0] == ["6", "6"]
    each = found.classes[0]
    scores = [f"{100 * s:.1f} %" for s in (each.precision, each.recall, each.f1)]
    assert page.row("ant")[-1] == ["6", *scores]
    assert f"{found.calibration_error:.3f} expected calibration error" in page.text


def test_phases_and_rates_stand_in_it(run, page):
    head, everything = page.row("head"), page.row("everything")[0]
    assert head[0][0] == "1\u20132"
    assert everything[0] == "3\u20133"
    assert "optimizer Adam" in everything[3]
    # The rates of each group: the head trains in both phases.
    parameters = f"{4 * 3 + 3:,}"
    assert head[1] == [parameters, "0.1", "0.001"]
    (backbone,) = [row for row in page.rows if row[-2:] == ["\u2013", "0.001"]]
    assert backbone[1] == f"{3 * 3 * 3 * 4 + 4:,}"


def test_arrays_are_counted_too(run, tmp_path):
    result, (x, y) = run
    page = Page(kt.report(result, (x[::2], y[::2]), tmp_path / "report.html", train=(x, y)))
    assert page.row("ant")[0] == ["6", "3"]


def test_it_tells_what_made_it(page):
    for text in ("My run", "python make.py 'a b'", keras.__version__, keras.backend.backend()):
        assert text in page.text
    assert "the best one by validation" in page.text
    assert "ask who made its weights" in page.text


def test_nothing_comes_from_elsewhere(page):
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form"}
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "srcset", "style"):
            value = attributes.get(name)
            assert value is None or re.match(r"data:image/(svg\+xml|jpeg);base64,|#", value), tag
        assert tag != "img" or attributes["alt"]
    policy = [a["content"] for tag, a in page.elements if a.get("http-equiv")]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_it_has_its_pictures(page, run):
    result, images = run
    p = result.model.predict(images[0], verbose=0)
    wrong = int((p.argmax(axis=1) != images[1]).sum())
    sources = [attributes["src"] for tag, attributes in page.elements if tag == "img"]
    assert sum(source.startswith("data:image/svg") for source in sources) == 3
    assert sum(source.startswith("data:image/jpeg") for source in sources) == min(wrong, 12)
    assert wrong  # otherwise nothing is seen here


def test_worst_errors_come_first(tmp_path):
    result, (x, y) = train()
    turned = (y + 1) % 3  # labels that are wrong
    path = kt.report(result, (x, turned), tmp_path / "report.html", worst=5)
    page = Page(path)
    p = result.model.predict(x, verbose=0)
    wrong = np.flatnonzero(p.argmax(axis=1) != turned)
    order = wrong[np.argsort(p[wrong, turned[wrong]], kind="stable")][:5]
    shown = [int(word.split()[1]) for word in page.words if re.fullmatch(r"image \d+", word.strip())]
    np.testing.assert_allclose(p[shown, turned[shown]], p[order, turned[order]])
    assert f"wrong about {len(wrong)} of 18 images; here are 5 of them" in page.text


def test_it_is_no_longer_for_more_images(run, tmp_path):
    """All of them are wrong, and for each of them three files were left out."""
    result, (x, y) = run
    pages = []
    for count in (90, 900):
        many = np.arange(count) % len(x)
        loader = kt.Loader((x[many], (y[many] + 1) % 3))
        loader._source.skipped = {f"{index}.jpg": "hidden" for index in range(3 * count)}
        path = kt.report(result, loader, tmp_path / f"{count}.html", train=loader)
        pages.append(Page(path))
    few, many = (([tag for tag, _ in page.elements].count("img"), len(page.rows)) for page in pages)
    assert few == many
    assert len(pages[1].source) < 1.05 * len(pages[0].source)
    assert "And 2,500 more." in pages[1].text


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """Return a report on folders, files and phases with hostile names."""
    from PIL import Image

    root = tmp_path_factory.mktemp("hostile")
    names = [SCRIPT.replace("/", ":"), *HOSTILE[1:3], "x" * 200]
    for number, name in enumerate(names):
        (root / "photos" / name).mkdir(parents=True)
        for k in range(3):
            shade = np.full((SIZE, SIZE, 3), 60 * number + k, "uint8")
            Image.fromarray(shade).save(root / "photos" / name / f"<b>{k}&.png")
    (root / "photos" / names[0] / "<i>broken.png").write_text("no image")
    options = {"image_size": SIZE, "on_error": "skip", "batch_size": 4}
    train, held_back = kt.data.from_directory(root / "photos", **options).split(0.34)
    model = network(4, train.class_names)
    phases = [kt.Phase(SCRIPT, 1, learning_rate=0.0)]
    result = kt.fine_tune(model, train, held_back, phases, verbose=0)
    path = root / "report.html"
    kt.report(result, held_back, path, train=train, title=HOSTILE[1], command=SCRIPT)
    return path, names


def test_names_are_text(hostile):
    path, names = hostile
    page = Page(path)
    assert not {tag for tag, _ in page.elements} & {"script", "b>0&.png", "i"}
    for name in (*names, SCRIPT, HOSTILE[1]):
        assert plain(name) in page.text
    assert "{{ 7 * 7 }}" in page.text
    assert "49" not in page.row(plain(HOSTILE[2]))
    assert any("<i>broken.png" in row[0] for row in page.rows if row)
    assert [row for row in page.rows if row and row[0] == SCRIPT]  # the phase


@pytest.mark.skipif(chromium is None, reason="no Chromium is installed")
def test_a_browser_shows_it(hostile, tmp_path):
    path, names = hostile
    done = subprocess.run(
        [
            *(chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            *("--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}"),
            *("--window-size=500,2000", "--dump-dom", path.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=1000,
        check=True,
    )
    assert "CONSOLE" not in done.stderr, done.stderr
    (tmp_path / "dom.html").write_text(done.stdout, encoding="utf-8")
    seen = Page(tmp_path / "dom.html")
    assert "script" not in {tag for tag, _ in seen.elements}
    for name in names:
        assert plain(name) in seen.text


def test_without_validation_and_without_images(tmp_path):
    result, _ = train(validation=False)
    page = Page(kt.report(result, None, tmp_path / "report.html"))
    assert "There were no validation data" in page.text
    assert "No images were given" in page.text
    assert not page.row("ant")
    assert sum(tag == "img" for tag, _ in page.elements) == 1


@pytest.mark.parametrize("classes", [2, 102])
def test_few_and_many_classes(classes, tmp_path):
    x, y = data(classes, 2)
    model = network(classes, [f"kind {k}" for k in range(classes)])
    result = kt.fine_tune(model, (x, y), (x, y), [kt.Phase("head", 1)], verbose=0)
    page = Page(kt.report(result, (x, y), tmp_path / "report.html"))
    for k in range(classes):
        assert page.row(f"kind {k}")[0] == ["2"]
    opened = ["open" in attributes for tag, attributes in page.elements if tag == "details"]
    assert opened[0] == (classes == 2)


def test_one_image(tmp_path):
    result, (x, y) = train()
    page = Page(kt.report(result, (x[:1], y[:1]), tmp_path / "report.html"))
    assert re.search(r"(0|100).0 % accuracy", page.text)


def test_automatic_training(tmp_path):
    x, y = data(2, 12)
    model = kt.classifier("mobilenet", 2, image_size=32, weights=None, class_names=["a", "b"])
    x = np.repeat(np.repeat(x, 4, axis=1), 4, axis=2)
    trained = kt.automatic.train(model, (x, y), verbose=0)
    page = Page(kt.report(trained, (x, y), tmp_path / "report.html"))
    assert "held back. Taken: linear head" in page.text
    assert page.row("linear head")[0][1:3] == ["24", "\u2013"]
    same = dataclasses.replace(trained.scores[-1], name="last group", gain=0.0, error=0.0)
    trained = dataclasses.replace(trained, scores=(trained.scores[0], same))
    page = Page(kt.report(trained, (x, y), tmp_path / "report.html"))
    assert page.row("last group")[0][2] == "none: right on the same images"
    assert "C = " in page.text
    assert "temperature" in page.text
    assert "backbone MobileNet weights random licence none needed" in page.text


def test_an_evaluation_is_taken_over(tmp_path, monkeypatch):
    result, (x, y) = train()
    found = kt.evaluation.evaluate(result.model, (x, y), verbose=0)
    monkeypatch.setattr(result.model, "predict", None)
    kt.report(result, (x, y), tmp_path / "report.html", evaluation=found)
    with pytest.raises(ValueError, match="must be of the 4 images of data.*Received: .* of 18"):
        kt.report(result, (x[:4], y[:4]), tmp_path / "report.html", evaluation=found)


class TestWhatIsRefused:
    @pytest.mark.parametrize("name", ["report.pdf", "report"])
    def test_another_kind_of_file(self, run, name, tmp_path):
        with pytest.raises(ValueError, match=r"path must end in \.html\. Received: path="):
            kt.report(run[0], run[1], tmp_path / name)

    def test_a_folder(self, run, tmp_path):
        (tmp_path / "report.html").mkdir()
        with pytest.raises(ValueError, match=r"path must be a file\. Received: path=.*a folder"):
            kt.report(run[0], run[1], tmp_path / "report.html")

    def test_a_place_that_cannot_be_written(self, run, tmp_path, monkeypatch):
        (tmp_path / "file").write_text("no folder")
        monkeypatch.setattr(run[0].model, "predict", None)  # it must fail before any work
        with pytest.raises(ValueError, match="path must be where files can be written.*Received: path="):
            kt.report(run[0], run[1], tmp_path / "file" / "report.html")

    def test_something_else_as_result(self, run, tmp_path):
        with pytest.raises(TypeError, match=r"result must be .*Received: result of type Functional"):
            kt.report(run[0].model, run[1], tmp_path / "report.html")
        assert not list(tmp_path.iterdir())

    def test_other_classes(self, run, tmp_path):
        x, y = run[1]
        (tmp_path / "report.html").write_text("an earlier one")
        with pytest.raises(ValueError, match="Received"):
            kt.report(run[0], (x, y + 7), tmp_path / "report.html")
        assert (tmp_path / "report.html").read_text() == "an earlier one"
        assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (12.34, "12.3 s"),
        (120, "2 min"),
        (89 * 60, "89 min"),
        (90 * 60, "1 h 30 min"),
        (9000, "2 h 30 min"),
    ],
)
def test_a_duration_is_in_units_that_one_reads(seconds, text):
    assert _duration(seconds).replace("\u202f", " ") == text
