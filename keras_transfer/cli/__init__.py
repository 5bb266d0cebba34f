"""The command line, `keras-transfer`."""

import io
import logging
import sys


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
