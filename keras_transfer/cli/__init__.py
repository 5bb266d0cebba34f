"""The command line, `keras-transfer`."""

import sys


def main() -> None:
    """Run the command line; its errors are one line, and the exit status is 1."""
    try:
        import typer  # noqa: F401
    except ImportError:
        sys.exit("The command line needs typer: pip install 'keras-transfer[cli]'")
    from keras_transfer.cli.app import app

    app()
