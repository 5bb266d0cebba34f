"""Run scripts in forks of one process that has imported Keras: a line of JSON on stdin for each.

Each run is a process of its own, forked from this one, which has imported Keras but used nothing of it:
so it has one thread, and a fork is as good as a fresh process without the seconds that the imports take.
A line on stdout says that the imports are done, and a line for each run with which status it ended (as
of `os.waitpid`).

A line of stdin is an object with "script", its "arguments", and the file "log" for what it prints.
"after" is the number of seconds after which it gets the signal with the number "signal".
"""

import contextlib
import json
import os
import runpy
import signal
import sys
import time
import traceback
from pathlib import Path

with contextlib.suppress(ImportError):
    import torch  # noqa: F401  before TensorFlow
with contextlib.suppress(ImportError):
    import tensorflow  # noqa: F401  Keras imports it on every backend, if it can: not in each run

import keras  # noqa: F401
import matplotlib.pyplot  # noqa: F401  what runs import late

from keras_transfer.reports import plots  # noqa: F401


def run(script, arguments, log, **_):
    """Run a script as `python script arguments` does; return its status."""
    # Where the suite runs in the background it is ignored, and would be in the child.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = [script, *arguments]
    sys.path.insert(0, str(Path(script).parent))
    try:
        runpy.run_path(script, run_name="__main__")
        return 0
    except SystemExit as ended:
        return int(bool(ended.code))
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def waited(child, after, number):
    """Wait until a process is over, or send it a signal; return its status."""
    end = time.monotonic() + (float("inf") if after is None else after)
    while True:
        process, status = os.waitpid(child, os.WNOHANG)
        if process:
            return status
        if time.monotonic() >= end:
            os.kill(child, number)
            return os.waitpid(child, 0)[1]
        time.sleep(0.002)


def serve():
    """Fork a process for each line."""
    print("ready", flush=True)  # noqa: T201
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            os._exit(run(**order))
        print(waited(child, order.get("after"), order.get("signal")), flush=True)  # noqa: T201


if __name__ == "__main__":
    if sys.platform == "linux":  # what a fork of more threads does nobody knows
        assert len(os.listdir("/proc/self/task")) == 1, os.listdir("/proc/self/task")
    serve()
