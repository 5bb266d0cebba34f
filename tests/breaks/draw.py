"""Draw deliberate breaks of the package: draw.py 17 120 OUT.json, with cosmic-ray 8.7.0 installed.

cosmic-ray knows where its operators apply; this script chooses among the places. A module gets breaks in
proportion to the square root of its number of places, at least one, so that small modules, those of one
backend above all, are not left out. Type annotations are no places: nothing reads them when a test runs.

A break is stored as a function's source before and after, so that it can still be applied when the
function has moved to another file.
"""

import ast
import json
import random
import sys
from pathlib import Path

from cosmic_ray.ast import get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).parents[2]
# They need arguments that name variables.
LEFT_OUT = {"core/VariableReplacer", "core/VariableInserter"}


def functions(source):
    """Yield each function with its dotted name, first line (decorators included) and last line."""

    def walk(node, prefix):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                name = f"{prefix}{child.name}"
                if not isinstance(child, ast.ClassDef):
                    first = min([child.lineno, *(each.lineno for each in child.decorator_list)])
                    yield name, first, child.end_lineno
                yield from walk(child, f"{name}.")
            else:
                yield from walk(child, prefix)

    yield from walk(ast.parse(source), "")


def annotation_lines(source):
    """Return the (line, column) ranges of annotations."""
    found = []
    for node in ast.walk(ast.parse(source)):
        for field in ("annotation", "returns"):
            part = getattr(node, field, None)
            if part is not None:
                found.append(((part.lineno, part.col_offset), (part.end_lineno, part.end_col_offset)))
    return found


def places(source):
    """Return {(line, column): [(operator, occurrence), ...]} of what is inside a function."""
    spans = [(first, last) for _, first, last in functions(source)]
    annotations = annotation_lines(source)
    tree, found = get_ast(source), {}
    for name in sorted(set(operator_names()) - LEFT_OUT):
        occurrence = 0
        operator = get_operator(name)()

        def visit(node):
            nonlocal occurrence
            for position in operator.mutation_positions(node):  # noqa: B023
                start = tuple(position[0])
                inside = any(first <= start[0] <= last for first, last in spans)
                if inside and not any(a <= start < b for a, b in annotations):
                    found.setdefault(start, []).append((name, occurrence))  # noqa: B023
                occurrence += 1
            for child in getattr(node, "children", ()):
                visit(child)

        visit(tree)
    return found


def apportion(counts, total):
    """Divide `total` among modules by the square roots of their counts, at least one to each."""
    roots = {name: count**0.5 for name, count in counts.items()}
    scale = total / sum(roots.values())
    shares = {name: max(1, round(root * scale)) for name, root in roots.items()}
    order = sorted(shares, key=lambda name: (roots[name] * scale - shares[name], name))
    while sum(shares.values()) != total:
        step = 1 if sum(shares.values()) < total else -1
        for name in order if step < 0 else reversed(order):
            if sum(shares.values()) == total:
                break
            if shares[name] + step >= 1:
                shares[name] += step
    return shares


def as_break(path, source, place, operator, occurrence):
    """Return a break as it is stored, or None where the new source is no Python or the same."""
    changed = mutate_code(source, get_operator(operator)(), occurrence)
    if changed is None or changed == source:
        return None
    try:
        ast.parse(changed)
    except SyntaxError:
        return None
    # The innermost function round the place, by its lines before and after.
    name, first, last = min(
        (each for each in functions(source) if each[1] <= place[0] <= each[2]),
        key=lambda each: each[2] - each[1],
    )
    old, new = source.splitlines(), changed.splitlines()
    tail = len(old) - last
    return {
        "module": path,
        "function": name,
        "operator": operator.removeprefix("core/"),
        "old": "\n".join(old[first - 1 : last]),
        "new": "\n".join(new[first - 1 : len(new) - tail]),
    }


def main(seed, count, out):
    rng = random.Random(seed)
    sources = {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted((ROOT / "keras_transfer").rglob("*.py"))
    }
    found = {path: places(source) for path, source in sources.items()}
    found = {path: each for path, each in found.items() if each}
    shares = apportion({path: len(each) for path, each in found.items()}, count)
    breaks = []
    for path, share in sorted(shares.items()):
        order = sorted(found[path])
        rng.shuffle(order)
        chosen = []
        while order and len(chosen) < share:
            place = order.pop()
            operator, occurrence = rng.choice(found[path][place])
            made = as_break(path, sources[path], place, operator, occurrence)
            if made:
                chosen.append(made)
        breaks += chosen
    for number, each in enumerate(breaks):
        breaks[number] = {"id": f"drawn-{number + 1:03}"} | each
    Path(out).write_text(json.dumps(breaks, indent=1) + "\n", encoding="utf-8")
    print(f"{len(breaks)} breaks in {len(shares)} modules, of {sum(map(len, found.values()))} places")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
