"""The command line, `keras-transfer`."""

import atexit
import io
import logging
import os
import sys
from typing import NoReturn


def main() -> None:
    """Run the command line; its errors are one line, and the exit status is 1."""
    try:
        import typer  # noqa: F401
    except ImportError:
        sys.exit("The command line needs typer: pip install 'keras-transfer[cli]'")
    from keras_transfer.cli.app import app
    from keras_transfer.cli.common import ByOption, stop_writing

    if logging.lastResort is not None:  # which prints warnings where nobody has asked for a log
        logging.lastResort.setFormatter(ByOption())
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Of names, some characters may not be in the encoding of the terminal or the pipe.
        sys.stdout.reconfigure(errors="replace")
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        stop_writing()
        sys.exit(1)


def run() -> NoReturn:
    """Run the command line, and end the process.

    Python would free each of a million objects before it ends, which takes up to a tenth of the time of
    a command, and the system frees them all at once. What asks to be called at the end is called.
    """
    code: int | str | None = None
    try:
        main()
    except SystemExit as end:
        code = end.code
    if isinstance(code, str):
        sys.stderr.write(f"{code}\n")
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)
