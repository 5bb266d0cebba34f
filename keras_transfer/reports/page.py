"""One page that tells all about a run, to be kept beside the model or sent to a colleague."""

import base64
import datetime
import io
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from keras_transfer._lib.checks import checked_integer
from keras_transfer._lib.files import check_writable, replacing
from keras_transfer._version import __version__
from keras_transfer.data.folders import by_reason
from keras_transfer.data.inputs import in_order
from keras_transfer.data.loader import Loader
from keras_transfer.layers.about import SEVERAL, Origin, class_names, origin_of
from keras_transfer.models.catalogue import weights_licence
from keras_transfer.probabilities import calibration
from keras_transfer.probabilities.evaluation import evaluate_classes
from keras_transfer.results.automatic import Trained
from keras_transfer.results.evaluation import Evaluation
from keras_transfer.results.training import FineTuneResult, PhaseResult
from keras_transfer.tasks.single_label import SINGLE_LABEL

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TEMPLATE = "page.html.jinja"
_THUMBNAIL = 192  # pixels of the longest side: twice what is shown, for dense screens
_CONFUSIONS = 10
_LISTED = 200  # files that were left out
_PACKAGES = ("tensorflow", "torch", "jax", "numpy", "scikit-learn")


def report(
    result: FineTuneResult | Trained,
    data: Any,
    path: str | os.PathLike[str],
    *,
    train: Any = None,
    evaluation: Evaluation | None = None,
    title: str | None = None,
    command: str | None = None,
    worst: int = 12,
    batch_size: int = 32,
) -> Path:
    """Write a page about a run: one HTML file with all in it, that opens without a network.

    It tells what the model reaches, for each class, which classes it takes for which, how far its
    probabilities can be trusted, and which images it is most wrong about; what trained, when and at
    which rates; with what data, weights (and their licence), settings and versions; how long it took and
    which command does it again. Names are shown as text, whatever they contain, and nothing in the page
    is executed.

    Args:
        result: what `keras_transfer.fine_tune` or `keras_transfer.automatic.train` gave back.
        data: the images to measure the model on, best such that nothing was chosen on: (x, y) arrays, a
            `keras_transfer.Loader` or a `PyDataset`. None leaves out what needs images.
        path: the file to write, whole or not at all; one of that name is replaced.
        train: the images for training, which are counted, or None.
        evaluation: what `keras_transfer.evaluation.evaluate` found for these images, if that is known.
        title: the headline; by default the name of the model.
        command: the command that makes the model again; by default that of the process, if it runs a
            script.
        worst: how many of the images that the model is wrong about are shown.
        batch_size: for arrays.

    Returns:
        The path of the file.

    Raises:
        ValueError, TypeError: an argument has no sensible meaning, the data doesn't fit the model, or
            the file can't be written.
        ImportError: Jinja2, matplotlib, Pillow or scikit-learn is not installed.

    Example:
        >>> import tempfile, numpy as np, keras_transfer as kt
        >>> x, y = np.zeros((8, 32, 32, 3), "uint8"), np.arange(8) % 2
        >>> model = kt.classifier("mobilenet", 2, image_size=32, weights=None)
        >>> result = kt.fine_tune(model, (x, y), phases=[kt.Phase("head", 1)], verbose=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     kt.report(result, (x, y), f"{folder}/report.html").name
        'report.html'
    """
    template = _template()
    if not isinstance(result, (FineTuneResult, Trained)):
        raise TypeError(
            "result must be what kt.fine_tune or kt.automatic.train gives back. "
            f"Received: result of type {type(result).__name__}"
        )
    target = check_writable(path, "path")
    if target.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"path must end in .html. Received: path={str(path)!r}")
    if target.is_dir():
        raise ValueError(f"path must be a file. Received: path={str(path)!r}, a folder")
    worst = checked_integer("worst", worst, 0)
    model = result.model
    measured = None if data is None else in_order(data, batch_size)
    training = None if train is None else in_order(train, batch_size, "train")
    if measured is not None and evaluation is None:
        evaluation = evaluate_classes(model, measured, batch_size=batch_size, verbose=0)
    if evaluation is not None and measured is not None:
        _check_same(evaluation, measured)
    names = class_names(model) or (measured.class_names if measured is not None else None)
    skipped = {**(training.skipped if training else {}), **(measured.skipped if measured else {})}
    text = template.render(
        title=title or model.name,
        made=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        model=_about_model(model),
        result=result,
        fine_tuning=result if isinstance(result, FineTuneResult) else result.fine_tuning,
        trained=result if isinstance(result, Trained) else None,
        phases=_phases(result),
        evaluation=evaluation,
        calibration=calibration.of(model),
        confusions=[] if evaluation is None else _confusions(evaluation),
        counts=_counts(training, measured, names),
        skipped=skipped,
        skipped_reasons=by_reason(skipped.values()),
        most_listed=_LISTED,
        numbered=_numbered(evaluation),
        figures=_figures(result, evaluation),
        wrong=0 if evaluation is None else _wrong(evaluation).size,
        errors=[] if evaluation is None or measured is None else _errors(evaluation, measured, worst),
        command=command or _own_command(),
        versions=_versions(),
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as temporary:
        # A file's name may be no text.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    return target


def _template() -> Any:
    try:
        import jinja2
        import PIL  # noqa: F401
        import sklearn  # noqa: F401

        from keras_transfer.reports import plots  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "reports need Jinja2, matplotlib, Pillow and scikit-learn: pip install "
            "'keras-transfer[report]'"
        ) from error
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("keras_transfer.reports", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=_percent, rate=_rate, duration=_duration)
    return environment.get_template(_TEMPLATE)


def _check_same(evaluation: Evaluation, measured: Loader) -> None:
    if evaluation.samples != measured.num_samples:
        raise ValueError(
            f"evaluation must be of the {measured.num_samples} images of data. "
            f"Received: an evaluation of {evaluation.samples}"
        )


def _about_model(model: keras.Model) -> dict[str, Any]:
    origin = origin_of(model)
    return {
        "name": model.name,
        "parameters": model.count_params(),
        "input": " x ".join("any" if n is None else str(n) for n in model.input_shape[1:]),
        "classes": model.output_shape[-1],
        "backbone": None if origin is None else origin.backbone,
        "weights": "those that the given model had" if origin is None else origin.weights,
        "licence": _licence(origin),
    }


def _licence(origin: Origin | None) -> str:
    if origin is None:
        return "not known, as the backbone was given as a model: ask who made its weights."
    if origin.weights == "random":
        return "none needed: training began with random weights."
    if origin.weights.startswith("file: "):
        return "not known, as the weights came from a file: ask who made it."
    names = origin.backbone.split(SEVERAL)
    if len(names) == 1:
        return _licence_of(origin.backbone)
    return " ".join(f"{name}: {_licence_of(name)}" for name in names)


def _licence_of(backbone: str) -> str:
    try:
        return weights_licence(backbone)
    except (ImportError, ValueError):  # a preset whose folder or package is no more
        return f"not known here: see the page of {backbone}."


def _phases(result: FineTuneResult | Trained) -> list[dict[str, Any]]:
    run = result if isinstance(result, FineTuneResult) else result.fine_tuning
    return [] if run is None else [_phase(phase) for phase in run.phases]


def _phase(phase: PhaseResult) -> dict[str, Any]:
    images = phase.settings.get("images")
    seen = None if images is None else phase.epochs * images / max(phase.seconds, 1e-9)
    groups = {group["name"]: group for group in phase.settings.get("groups", [])}
    shown = (
        "train",
        "optimizer",
        "learning_rate",
        "schedule",
        "batch_norm",
        "average",
        "l2_sp",
        "augmentation",
    )
    settings = {name.replace("_", " "): phase.settings.get(name) for name in shown}
    return {
        **vars(phase),
        "images_per_second": seen,
        "groups": groups,
        "settings": {name: value for name, value in settings.items() if value is not None},
    }


def _confusions(evaluation: Evaluation) -> list[tuple[str, str, int]]:
    """Return the commonest errors: true class, predicted class, how many."""
    counts = np.array(evaluation.confusion)
    np.fill_diagonal(counts, 0)
    names = [each.name for each in evaluation.classes]
    commonest = np.argsort(-counts, axis=None, kind="stable")[:_CONFUSIONS]
    pairs = (np.unravel_index(index, counts.shape) for index in commonest)
    return [
        (names[true], names[said], int(counts[true, said])) for true, said in pairs if counts[true, said]
    ]


def _counts(
    training: Loader | None, measured: Loader | None, names: Sequence[str] | None
) -> list[tuple[str, int | None, int | None]]:
    """Return for each class its name and how many images of it there are in either part."""
    columns = [None if part is None else part.class_counts() for part in (training, measured)]
    size = max((len(column) for column in columns if column is not None), default=0)
    size = max(size, len(names or ()))

    def count(column: np.ndarray | None, index: int) -> int | None:
        if column is None:
            return None
        return int(column[index]) if index < len(column) else 0

    return [
        (names[k] if names else str(k), count(columns[0], k), count(columns[1], k)) for k in range(size)
    ]


def _figures(result: FineTuneResult | Trained, evaluation: Evaluation | None) -> dict[str, str]:
    """Return the plots as addresses that hold them."""
    from keras_transfer.reports import plots

    training = plots.training(result) if isinstance(result, Trained) else plots.history(result)
    figures = {"training": _svg(training)}
    if evaluation is not None:
        figures["confusion"] = _svg(plots.confusion_matrix(evaluation))
        figures["reliability"] = _svg(plots.reliability(evaluation.probabilities, evaluation.labels))
    return figures


def _numbered(evaluation: Evaluation | None) -> dict[int, str]:
    """Return the names of classes for which numbers stand in the figures, by these numbers."""
    from keras_transfer.reports.plots.lettering import lettering
    from keras_transfer.reports.plots.scores import NAMED

    if evaluation is None or len(evaluation.classes) > NAMED:
        return {}
    return lettering([each.name for each in evaluation.classes]).numbered


def _svg(figure: "Figure") -> str:
    import matplotlib

    with io.BytesIO() as file, matplotlib.rc_context({"svg.hashsalt": "keras_transfer"}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
        return _address(file.getvalue(), "svg+xml")


def _wrong(evaluation: Evaluation) -> np.ndarray:
    return np.flatnonzero(~SINGLE_LABEL.correct(evaluation.probabilities, evaluation.labels))


def _errors(evaluation: Evaluation, measured: Loader, worst: int) -> list[dict[str, Any]]:
    """Return the images that the model is most wrong about, the worst first."""
    p, y = evaluation.probabilities, evaluation.labels
    found = SINGLE_LABEL.losses(p, y)
    wrong = _wrong(evaluation)
    names = [each.name for each in evaluation.classes]
    errors = []
    for index in wrong[np.argsort(-found[wrong], kind="stable")][:worst]:
        said, file = int(p[index].argmax()), measured.file(int(index))
        errors.append(
            {
                "picture": _thumbnail(measured.samples(int(index), int(index) + 1)[0][0]),
                "true": names[y[index]],
                "said": names[said],
                "p_true": float(p[index, y[index]]),
                "p_said": float(p[index, said]),
                "file": f"image {index}" if file is None else os.path.join(file.parent.name, file.name),
            }
        )
    return errors


def _thumbnail(image: np.ndarray) -> str:
    from PIL import Image

    from keras_transfer.reports.plots.pictures import displayed

    picture = Image.fromarray(np.ascontiguousarray(displayed(image)))
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    with io.BytesIO() as file:
        picture.save(file, "JPEG", quality=80)
        return _address(file.getvalue(), "jpeg")


def _address(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _own_command() -> str | None:
    """Return the command that started this process, or None where someone types."""
    if not hasattr(sys.modules["__main__"], "__file__"):
        return None
    return shlex.join(["python", *sys.orig_argv[1:]])


def _versions() -> dict[str, str]:
    # A nightly Keras is installed under another name.
    keras_versions = {"keras": keras.__version__, "Keras' backend": keras.backend.backend()}
    found = {"keras_transfer": __version__, **keras_versions}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found | {"Python": platform.python_version(), "system": platform.platform()}


def _percent(value: float) -> str:
    return f"{value:.1%}".replace("%", "\u202f%")


def _rate(value: Any) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.1f}\u202fs"
    minutes = round(seconds / 60)
    return f"{minutes}\u202fmin" if minutes < 90 else f"{minutes // 60}\u202fh {minutes % 60}\u202fmin"
