"""What README.md and the pages in docs/ show works: their code, their commands and their names.

All blocks of `python` of a page run in order, each twice in a row, in one namespace and in a new folder
with photos that are drawn here. What is different from a user's machine:

- 224 pixels are 32, also those that the command line takes by itself;
- MobileNetV2, VGG16 and ResNet50 are chains of some of their own layers, narrow and with random weights.
  That these have the names and the order of the real networks is tested, too;
- names that a page takes for granted (your images, say) are in `GIVEN`.

Tables of the pages "Coming from" count as code: what a cell of the columns in `COLUMNS` begins with is
run, where it stands. Commands `keras-transfer ...` run in this process; the options of other scripts are
looked up in their source.

A block that can't run has the comment `<!-- not run: the reason -->` before it, and is counted in
`NOT_RUN`.
"""

import functools
import os
import re
import shlex
import shutil
import tomllib
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pytest
from empty_pictures import empty_pictures
from initial_weights import numpy_initial_weights

import keras_transfer as kt
from keras_transfer.models import beginning, replacement
from keras_transfer.runs.known_recipes import RECIPES

Image = pytest.importorskip("PIL.Image")
testing = pytest.importorskip("typer.testing")
pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch",
    reason="pages are run on one backend; what they call is tested on each",
)

ROOT = Path(__file__).parents[1]
BACKEND = keras.backend.backend()
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
}

# How many blocks of a page can't run; the reason is on the page.
NOT_RUN = {"docs/guides/data.md": 1, "docs/guides/features.md": 1, "docs/guides/several-devices.md": 2}
# What pages take for granted.
GIVEN = {
    "README.md": """
import numpy as np
images = np.zeros((3, 224, 224, 3), "uint8")
x, y = np.random.default_rng(0).integers(0, 256, (8, 224, 224, 3), "uint8"), np.arange(8)
"""
}
# The columns of tables that are code.
COLUMNS = {
    "docs/coming-from/fastai.md": [1],
    "docs/coming-from/pytorch.md": [1],
    "docs/coming-from/keras.md": [0, 1],
}
# Pages that take more than about ten seconds on some backend.
SLOW = {
    *("README.md", "docs/guides/one-command.md", "docs/guides/phases.md", "docs/guides/features.md"),
    *("docs/coming-from/fastai.md", "docs/coming-from/keras.md", "docs/guides/cycles.md"),
    *("docs/guides/freezing.md", "docs/guides/finding-a-rate.md", "docs/guides/plots.md"),
}
# The layers of networks that stand in for them.
VGG16 = [
    *("block1_conv1", "block1_conv2", "block1_pool", "block2_conv1", "block2_conv2", "block2_pool"),
    *("block3_conv1", "block3_conv2", "block3_conv3", "block3_pool"),
    *("block4_conv1", "block4_conv2", "block4_conv3", "block4_pool"),
    *("block5_conv1", "block5_conv2", "block5_conv3", "block5_pool"),
]
LAYERS = {
    "MobileNetV2": [
        *("Conv1", "bn_Conv1", "Conv1_relu", "block_1_expand", "block_1_expand_BN"),
        *("block_10_expand", "block_10_expand_BN", "block_13_expand_relu"),
        *("block_16_expand", "block_16_expand_BN", "block_16_expand_relu"),
        *("Conv_1", "Conv_1_bn", "out_relu"),
    ],
    "ResNet50": [
        *("conv1_conv", "conv1_bn", "conv1_relu", "conv2_block1_1_conv", "conv3_block1_1_conv"),
        *("conv4_block1_1_conv", "conv4_block1_1_bn", "conv5_block1_1_conv", "conv5_block1_1_bn"),
    ],
    "VGG16": VGG16,
}
TOPS = {"VGG16": ["flatten", "fc1", "fc2", "predictions"]}


@dataclass
class Code:
    """Code of a page.

    Attributes:
        line: where it begins.
        language: "python", "sh" or another; "indented" without a fence.
        text: the code.
        reason: why it can't run, or "".
    """

    line: int
    language: str
    text: str
    reason: str = ""


def blocks(page):
    """Return the blocks of code of a page, fenced ones and indented ones."""
    found, lines, k, reason = [], PAGES[page].splitlines(), 0, ""
    while k < len(lines):
        start = k
        if lines[k].startswith("```"):
            language = lines[k][3:].strip()
            end = lines.index("```", k + 1)
            found.append(Code(k + 2, language, "\n".join(lines[k + 1 : end]), reason))
            k = end
        elif lines[k].startswith("    ") and (k == 0 or not lines[k - 1].strip()):
            while k + 1 < len(lines) and lines[k + 1].startswith("    "):
                k += 1
            found.append(Code(start + 1, "indented", "\n".join(lines[start : k + 1])))
        reason = "".join(re.findall(r"<!-- not run: (.+?) -->", lines[k]))
        k += 1
    return found


def cells(page):
    """Return the code that cells of tables begin with, of the columns that are code."""
    for number, line in enumerate(PAGES[page].splitlines(), 1):
        if line.startswith("| ") and line.endswith(" |"):
            row = line[2:-2].split(" | ")
            for column in COLUMNS.get(page, []):
                code = re.match(r"`([^`]+)`", row[column])
                if code:
                    yield Code(number, "python", code[1])


def commands(page):
    """Return the shell commands of a page, those in code of its tables, too."""
    for block in blocks(page):
        if block.language in ("sh", "indented"):
            for line in block.text.splitlines():
                yield from line.split("&&")
    yield from re.findall(r"(?m)^\| `(keras-transfer [^`]+)`", PAGES[page])


def python_of(page):
    code = [block for block in blocks(page) if block.language == "python"]
    return sorted([*code, *cells(page)], key=lambda each: each.line)


def small(code):
    """Return code with small images."""
    return re.sub(r"\b224\b", "32", code)


@functools.cache
def real_layers(name, include_top):
    """Return the layers of a network of keras.applications, in their order: {name: (class, config)}."""
    shape = (32, 32, 3)
    with numpy_initial_weights():
        model = REAL[name](weights=None, include_top=include_top, input_shape=shape)
    return {layer.name: (type(layer), layer.get_config()) for layer in model.layers}


REAL = {name: getattr(keras.applications, name) for name in LAYERS}


def stand_in(name):
    """Return a function that builds a small network instead of that of keras.applications."""

    @functools.wraps(REAL[name])
    def build(
        include_top=True, weights="imagenet", input_tensor=None, input_shape=None, pooling=None, **others
    ):
        layers = real_layers(name, include_top)
        x = keras.Input(input_shape or (32, 32, 3)) if input_tensor is None else input_tensor
        inputs = keras.utils.get_source_inputs(x)
        for layer in [*LAYERS[name], *(TOPS[name] if include_top else [])]:
            kind, config = layers[layer]
            config = dict(config)
            if "filters" in config:
                config["filters"] = min(config["filters"], 8)
            if "units" in config and layer != "predictions":
                config["units"] = 16
            x = kind.from_config(config)(x)
        if pooling == "avg":
            x = keras.layers.GlobalAveragePooling2D()(x)
        return keras.Model(inputs, x, name=name.lower())

    return build


def draw_photos(folder, count):
    """Draw JPEG files of three classes, which their brightness tells."""
    for shade, name in enumerate(("ants", "bees", "wasps")):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            noise = np.random.default_rng(10 * number + shade).integers(0, 60, (36, 40, 3))
            Image.fromarray((noise + 70 * shade).astype("uint8")).save(folder / name / f"{number}.jpg")


@pytest.fixture
def small_networks(monkeypatch):
    """Let names of backbones stand for small networks with small images."""
    for name in LAYERS:
        monkeypatch.setattr(keras.applications, name, stand_in(name))
    monkeypatch.setattr(beginning, "_DEFAULT_SIZE", 32)
    names = [f"class {k}" for k in range(1000)]
    names[934] = "hotdog"  # of ImageNet, as Keras would have to fetch them
    monkeypatch.setattr(replacement, "_imagenet_names", lambda: names)
    with numpy_initial_weights():
        yield


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Return a folder with photos, and with what `keras-transfer train` has made of them."""
    folder = tmp_path_factory.mktemp("trained")
    draw_photos(folder / "photos" / "train", 6)
    draw_photos(folder / "photos" / "val", 2)
    shutil.copytree(folder / "photos" / "val" / "ants", folder / "holiday")
    with pytest.MonkeyPatch.context() as patch, numpy_initial_weights():
        patch.chdir(folder)
        for name in LAYERS:
            patch.setattr(keras.applications, name, stand_in(name))
        keras_transfer("train photos --cache features --image-size 32")
    shutil.copy(folder / "photos-model" / "model.keras", folder)
    return folder


def keras_transfer(arguments):
    """Run the command line in this process."""
    from keras_transfer.cli.app import app

    arguments = shlex.split(arguments, comments=True)
    words = []
    for each in arguments:
        words += sorted(map(str, Path().glob(each))) if "*" in each else [each]
    before = dict(os.environ)
    try:
        result = testing.CliRunner().invoke(app, words)
    finally:
        os.environ.clear()
        os.environ.update(before)
    message = " ".join(result.stderr.split())
    # Not each format can be written from each backend, and the message says from which.
    if "export" in arguments and "can't be written" in message:
        assert result.exit_code == 1
    else:
        assert result.exit_code == 0, f"{arguments}: {result.output} {result.exception!r}"


def pages(condition):
    """Return the pages that fulfil a condition, as parameters of a test."""
    return [
        pytest.param(page, marks=pytest.mark.slow if page in SLOW else ())
        for page in PAGES
        if condition(page)
    ]


@pytest.mark.parametrize("page", pages(python_of))
def test_python(page, small_networks, tmp_path, monkeypatch):
    draw_photos(tmp_path / "photos", 14)  # two batches for training
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    exec(small(GIVEN.get(page, "")), namespace)
    for code in python_of(page):
        if not code.reason:
            # Empty lines put the lines of an error where they are on the page.
            text = "\n" * (code.line - 1) + small(code.text)
            compiled = compile(text, str(ROOT / page), "exec")
            exec(compiled, namespace)
            with empty_pictures():  # as a cell of a notebook that is run again
                exec(compiled, namespace)


@pytest.mark.parametrize(
    "page", pages(lambda page: any("keras-transfer" in each for each in commands(page)))
)
@pytest.mark.usefixtures("quick_pictures")
def test_commands(page, small_networks, trained, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    for command in commands(page):
        name, _, arguments = command.strip().partition(" ")
        if name == "keras-transfer":
            arguments = arguments.replace("$KERAS_TRANSFER_REAL_DATA/hymenoptera", "photos")
            arguments = re.sub(r"--backend \w+", f"--backend {BACKEND}", arguments)
            arguments = arguments.replace("FILES", "holiday")
            verb = arguments.split()[0]
            if verb in ("rank", "lr", "train", "compare"):
                arguments = f"{arguments} --image-size 32"
            if verb == "train":
                arguments = f"{arguments} --overwrite"  # the folder is there already
            if verb == "rank" and "--backbones" not in arguments:
                arguments = f"{arguments} --backbones mobilenet_v2,resnet50"  # instead of four others
            keras_transfer(arguments)


@pytest.mark.parametrize("page", [page for page in PAGES if list(commands(page))])
def test_scripts_have_the_options(page):
    known = re.findall(r"(?m)^def (\w+)\(session", (ROOT / "noxfile.py").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for command in commands(page):
        words = shlex.split(command, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            del words[0]
        match words:
            case ["python", script, *options]:
                source = (ROOT / script).read_text(encoding="utf-8")
                for option in options:
                    if option.startswith("--"):
                        assert f'"{option}"' in source, command
            case ["pip", "install", *rest]:
                for extras in re.findall(r"\.\[(.+?)\]", " ".join(rest)):
                    assert set(extras.split(",")) <= set(project["optional-dependencies"])
            case ["nox", *rest]:
                assert {re.sub(r"\(.*", "", each) for each in rest if each != "-s"} <= set(known)
            case ["pytest", path]:
                assert (ROOT / path).exists()
            case ["keras-transfer", *_]:
                pass  # test_commands
            case _:
                # What isn't a command, such as what a program prints.
                assert command.lstrip()[:6] in ("Cache:", "cut, a"), command


def test_every_block_runs_or_says_why_not():
    found = {page: sum(bool(block.reason) for block in blocks(page)) for page in PAGES}
    assert {page: count for page, count in found.items() if count} == NOT_RUN
    comments = {page: text.count("<!-- not run") for page, text in PAGES.items()}
    assert comments == found  # each of them stands before a block
    languages = {block.language for page in PAGES for block in blocks(page)}
    assert languages <= {"python", "sh", "text", "indented"}


@pytest.mark.parametrize("name", LAYERS)
def test_stand_ins_have_the_real_names(name):
    top = name in TOPS
    wanted = [*LAYERS[name], *TOPS.get(name, [])]
    assert [layer for layer in real_layers(name, top) if layer in wanted] == wanted


def test_every_public_name_is_in_the_reference():
    reference = "\n".join(text for page, text in PAGES.items() if page.startswith("docs/api/"))
    found = set()
    for entry in re.split(r"(?m)^::: ", reference)[1:]:
        name = entry.split()[0].removeprefix("keras_transfer.")
        members = entry.partition("members:")[2]
        found |= {name, *(f"{name}.{member}" for member in re.findall(r"\w+", members.split("#")[0]))}
    modules = [kt.calibration, kt.callbacks, kt.data, kt.features, kt.optimizers, kt.plots]
    modules += [kt.recipes, kt.schedules]
    public = {name for name in kt.__all__ if name not in ("data", "features", "multipliers")} | {"plots"}
    for module in modules:
        short = module.__name__.rpartition(".")[2]
        public |= {f"{short}.{name}" for name in module.__all__ if name not in kt.__all__}
    assert public <= found


def test_the_guide_has_the_recipes_and_their_sources():
    row = r"(?m)^\| `kt\.recipes\.(\w+)\(\w*\)` \| .+ \| (.+) \|$"
    assert dict(re.findall(row, PAGES["docs/guides/phases.md"])) == RECIPES


def test_pictures_are_small_and_shown():
    pictures = sorted((ROOT / "docs" / "pictures").rglob("*.png"))
    sizes = [path.stat().st_size for path in pictures]
    assert max(sizes) < 150_000
    assert sum(sizes) < 1_500_000
    text = "\n".join(PAGES.values())
    for path in pictures:
        script = ROOT / "examples" / f"{path.parent.name}.py"  # whose page shows it by itself
        assert path.name in text or script.is_file(), path
