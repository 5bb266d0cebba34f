"""Find for each break the tests that run its line: cover.py ROOT OUT.json BACKEND=FOLDER ...

ROOT is a checkout, and a FOLDER what a run of its suite on that backend has left there:

    cd ROOT && KERAS_BACKEND=torch COVERAGE_FILE=FOLDER/coverage python -m pytest -n 2 \\
        --cov=keras_transfer --cov-context=test --cov-config=tests/breaks/coverage.toml \\
        --cov-report= --junitxml=FOLDER/times.xml

(pytest-cov installed.) Processes that a test starts count as that test. In OUT.json a break has the
numbers of its tests on each backend, quickest first.
"""

import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

from coverage import CoverageData

BREAKS = Path(__file__).with_name("breaks.json")


def located(each, root):
    """Return the file of a break's function, now, and the lines that the break changes; None if gone."""
    recorded = root / each["module"]
    others = (path for path in sorted((root / "keras_transfer").rglob("*.py")) if path != recorded)
    for path in (recorded, *others):
        source = path.read_text(encoding="utf-8") if path.exists() else ""
        if source.count(each["old"]) == 1:
            first = source[: source.index(each["old"])].count("\n") + 1
            old, new = each["old"].splitlines(), each["new"].splitlines()
            same = next((k for k, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), len(new))
            same = min(same, len(old) - 1)
            return path, first, first + same
    return None


def statement(lines, first, line, last):
    """Return the changed line, or the nearest that runs, as a statement may have several."""
    near = sorted(range(first, last + 1), key=lambda each: (abs(each - line), each > line))
    return next(([each] for each in near if each in lines), [])


def seconds_of(report):
    """Return how long each test of a JUnit report took, by its file and name."""
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        found[case.get("classname"), case.get("name")] = float(case.get("time"))
    return found


def known_as(test):
    """Return how a JUnit report calls a test."""
    path, _, rest = test.partition("::")
    *classes, name = (
        rest.split("::")
        if "[" not in rest
        else [
            *rest.split("[")[0].split("::")[:-1],
            rest.split("[")[0].split("::")[-1] + rest[rest.index("[") :],
        ]
    )
    return ".".join([path.removesuffix(".py").replace("/", "."), *classes]), name


def covering(data, path, each, first, line):
    """Return the tests that run the line of a break."""
    contexts = data.contexts_by_lineno(str(path))
    last = first + len(each["old"].splitlines()) - 1
    tests = set()
    for number in statement({n for n, c in contexts.items() if any(c)}, first, line, last):
        for context in contexts[number]:
            # "started by|test|run" or "test|run"; where a process began it, "test (call)".
            for part in context.split("|"):
                match = re.match(r"(tests/.+?\.py::.+?)(?: \((?:setup|call|teardown)\))?$", part)
                if match:
                    tests.add(match[1])
    return tests


def main(root, out, *runs):
    root = Path(root).resolve()
    breaks = json.loads(BREAKS.read_text(encoding="utf-8"))
    numbers, found = {}, defaultdict(dict)
    for run in runs:
        backend, _, folder = run.partition("=")
        data = CoverageData(str(Path(folder, "coverage")))
        data.read()
        took = seconds_of(Path(folder, "times.xml"))
        for each in breaks:
            place = located(each, root)
            if place is None:
                continue
            tests = covering(data, place[0], each, *place[1:])
            timed = sorted((took.get(known_as(test), 1e9), test) for test in tests)
            found[each["id"]][backend] = [
                [numbers.setdefault(test, len(numbers)), round(seconds, 2)]
                for seconds, test in timed
                if seconds < 1e9
            ]
    text = json.dumps({"tests": list(numbers), "breaks": found})
    Path(out).write_text(text.replace('"drawn', '\n"drawn').replace('"hand', '\n"hand') + "\n")
    none = [each["id"] for each in breaks if not any(found[each["id"]].values())]
    print(f"{len(numbers)} tests; no test runs {', '.join(none) or 'none of them'}")


if __name__ == "__main__":
    main(*sys.argv[1:])
