"""Running the examples."""

import contextlib
import io
import logging
import os
import runpy
import subprocess
import sys
from pathlib import Path
from unittest import mock

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name, *arguments):
    """Run an example as `python examples/name` does, but in this process, which has imported Keras."""
    script = str(EXAMPLES / name)
    command = [script, *map(str, arguments)]
    out, err = io.StringIO(), io.StringIO()
    log = logging.getLogger("tensorflow")
    level, code = log.level, 0
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "argv", command),
        mock.patch.dict(os.environ),
    ):
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as ended:
            code = ended.code or 0
            if isinstance(code, str):  # as Python does it
                print(code, file=err)
                code = 1
        finally:
            log.setLevel(level)
    return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())


def start(name, *arguments, launcher=(), **environment):
    """Run an example in a process of its own, or in those that the module `launcher` starts."""
    launched = ["-m", *map(str, launcher)] if launcher else []
    return subprocess.run(
        [sys.executable, *launched, str(EXAMPLES / name), *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=1000,
        check=False,
    )
