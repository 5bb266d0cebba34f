"""Try which breaks a suite notices: run.py ROOT MAP.json RESULTS.json [--jobs 2] [--only ID ...].

ROOT is a checkout, MAP.json what cover.py has made for it. A break is made in a copy of ROOT, and the
tests that run its line are run there, quickest first, to the first that fails: on the cheapest backend,
and where no test fails there on the next. RESULTS.json is written after each break, and what is finished
in it is not done again.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

from cover import BREAKS, located

BACKENDS = ("torch", "jax", "tensorflow")
SECONDS = 180  # for one break on one backend, to the first failure
LEFT_OUT = shutil.ignore_patterns(".git", ".hypothesis", "__pycache__", ".nox", "site", "*.egg-info")


def chosen(tests):
    """Return the quickest tests that fit into the time."""
    kept, total = [], 0.0
    for number, seconds in tests:
        total += max(seconds, 0.05)  # a report has no more than the test itself
        if kept and total > 0.6 * SECONDS:
            break
        kept.append(number)
    return kept


def run_tests(copy, backend, tests):
    """Run tests to the first failure; return ("noticed", by which), ("passed", "") or ("time", "")."""
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "PYTHONPATH": str(copy),
        "OMP_NUM_THREADS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    options = [
        "-x",
        "-q",
        "--tb=no",
        "-rfE",
        "--timeout=100",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:randomly",
    ]
    command = [sys.executable, "-m", "pytest", *options, *tests]
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command,
            cwd=copy,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with the processes that tests have started
            process.wait()
            return "time", ""
        output.seek(0)
        printed = output.read()
    if status == 0:
        return "passed", ""
    # An id ends where the message begins; one of a parametrised test may have " - " in it.
    failed = re.findall(r"(?m)^(?:FAILED|ERROR) ([^\s\[]+(?:\[.*?\](?= - |$))?)", printed)
    if not failed:  # such as a test that is not there any more: that is no break noticed
        raise RuntimeError(f"pytest ended with {status} and no failure:\n{printed[-2000:]}")
    return "noticed", failed[0]


def try_break(each, root, copy, tests, cover):
    """Make a break in a copy of the tree and look for a test that notices it."""
    place = located(each, root)
    if place is None:
        return {"outcome": "gone"}
    path = copy / place[0].relative_to(root)
    source = path.read_text(encoding="utf-8")
    tried = {}
    try:
        path.write_text(source.replace(each["old"], each["new"]), encoding="utf-8")
        for backend in BACKENDS:
            numbers = chosen(cover.get(backend, []))
            if not numbers:
                continue
            outcome, by = run_tests(copy, backend, [tests[number] for number in numbers])
            tried[backend] = {"outcome": outcome, "tests": len(numbers), "of": len(cover[backend])}
            if outcome == "noticed":
                return {"outcome": "noticed", "backend": backend, "by": by, "tried": tried}
    finally:
        path.write_text(source, encoding="utf-8")
    unfinished = any(one["outcome"] == "time" or one["tests"] < one["of"] for one in tried.values())
    return {"outcome": "unfinished" if unfinished else "survived", "tried": tried}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=lambda text: Path(text).resolve())
    parser.add_argument("map", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", nargs="*")
    given = parser.parse_args()
    about = json.loads(given.map.read_text(encoding="utf-8"))
    breaks = json.loads(BREAKS.read_text(encoding="utf-8"))
    results = json.loads(given.results.read_text()) if given.results.exists() else {}
    finished = {each for each, found in results.items() if found["outcome"] != "unfinished"}
    left = [b for b in breaks if b["id"] not in finished and (not given.only or b["id"] in given.only)]
    lock = Lock()
    with tempfile.TemporaryDirectory() as folder:
        copies = [Path(folder, str(number)) for number in range(given.jobs)]
        for copy in copies:
            shutil.copytree(given.root, copy, ignore=LEFT_OUT)

        def work(each):
            with lock:
                copy = copies.pop()
            found = try_break(
                each, given.root, copy, about["tests"], about["breaks"].get(each["id"], {})
            )
            with lock:
                copies.append(copy)
                reason = results.get(each["id"], {}).get("reason")
                results[each["id"]] = found | ({"reason": reason} if reason else {})
                given.results.write_text(json.dumps(dict(sorted(results.items())), indent=1) + "\n")
                print(each["id"], found["outcome"], found.get("by", ""), flush=True)

        with ThreadPoolExecutor(given.jobs) as pool:
            list(pool.map(work, left))


if __name__ == "__main__":
    main()
