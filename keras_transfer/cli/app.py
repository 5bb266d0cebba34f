"""The application: its commands, what all of them share, and how a mistake of the user's ends."""

import importlib.util
import json
import os
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import rich.console
import typer
from typer.core import TyperGroup

from keras_transfer._version import __version__
from keras_transfer.cli import exploring, training, using
from keras_transfer.cli.common import by_option, stop_writing
from keras_transfer.cli.starting import with_keras

_MISTAKES = (ValueError, TypeError, ImportError, OSError, FloatingPointError)
_BACKENDS = ("tensorflow", "torch", "jax")


class Backend(StrEnum):
    """The backends of Keras."""

    tensorflow = "tensorflow"
    torch = "torch"
    jax = "jax"


class Group(TyperGroup):
    """Commands that end with a message where a user has made a mistake, and not with a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; `--debug` shows tracebacks all the same."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            stop_writing()
            raise typer.Exit(1) from None
        except _MISTAKES as error:
            if ctx.params.get("debug"):
                raise
            console = rich.console.Console(stderr=True)
            console.print("[bold red]Error:[/]", end=" ")
            console.print(by_option(str(error)), markup=False, highlight=False, soft_wrap=True)
            raise typer.Exit(1) from error
        except KeyboardInterrupt:
            on = ": the same command with --resume goes on" if ctx.invoked_subcommand == "train" else ""
            rich.console.Console(stderr=True).print(f"Stopped{on}.", highlight=False)
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def start(
    context: typer.Context,
    backend: Annotated[
        Backend | None,
        typer.Option(help="Backend of Keras. [default: $KERAS_BACKEND, or what there is]"),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Transfer learning of image classifiers: from a folder of photos to a model you can trust.

    A folder for each class, and one command:

        keras-transfer train photos

    then

        keras-transfer predict photos-model/model.keras holiday/*.jpg
    """
    context.obj = time.perf_counter()  # when the command began
    _choose(backend)


def _choose(backend: Backend | None) -> None:
    """Set the backend before Keras is imported, where nobody has said otherwise."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if backend is not None:
        os.environ["KERAS_BACKEND"] = backend.value
        return
    home = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser()
    if "KERAS_BACKEND" in os.environ:
        return
    installed = [name for name in _BACKENDS if importlib.util.find_spec(name) is not None]
    if not installed:
        raise ImportError("Keras needs a backend: pip install 'keras-transfer[torch]'")
    # Keras writes the file by itself, with TensorFlow in it, whether that is there or not.
    configured = _configured(home / "keras.json")
    os.environ["KERAS_BACKEND"] = configured if configured in installed else installed[0]


def _configured(path: Path) -> str | None:
    """Return the backend that a file of Keras' settings names, or None."""
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("backend")
    except (OSError, ValueError, AttributeError):
        return None


for command in (
    exploring.backbones,
    exploring.rank,
    exploring.lr,
    training.train,
    training.compare,
    using.predict,
    using.evaluate,
    using.export,
):
    app.command()(with_keras(command))
app.add_typer(exploring.cache, name="cache")
