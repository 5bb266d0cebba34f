"""Say where the time of the suite goes: test_times.py FOLDER, which `nox` has left in .nox/.cache/times.

FOLDER holds a JUnit report of each backend. Seconds are those that the tests of a folder took one after
the other, fixtures included: with two processes the suite takes half of them.
"""

import sys
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

BACKENDS = ("torch", "jax", "tensorflow")


def folder_of(case):
    """Return the folder of tests/ that a test is in."""
    parts = case.get("classname").split(".")[1:]
    return f"{parts[0]}/" if not parts[0].startswith("test_") else "tests/ itself"


def main(folder):
    """Print a table in Markdown: tests and seconds by folder and backend."""
    rows = defaultdict(lambda: dict.fromkeys(BACKENDS, (0, 0.0)))
    for backend in BACKENDS:
        for case in ElementTree.parse(Path(folder, f"{backend}.xml")).iter("testcase"):
            count, seconds = rows[folder_of(case)][backend]
            rows[folder_of(case)][backend] = count + 1, seconds + float(case.get("time"))
    rows = dict(sorted(rows.items()))
    rows["all"] = {
        backend: tuple(map(sum, zip(*(row[backend] for row in rows.values()), strict=True)))
        for backend in BACKENDS
    }
    print("| | " + " | ".join(f"{backend}: tests | s" for backend in BACKENDS) + " |")
    print("|---|" + "--:|" * 2 * len(BACKENDS))
    for name, row in rows.items():
        cells = (f"{row[backend][0]} | {row[backend][1]:.0f}" for backend in BACKENDS)
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main(sys.argv[1])
