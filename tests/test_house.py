"""The rules of the house that ruff, mypy and import-linter don't check."""

import ast
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "keras_transfer"
MODULES = sorted(PACKAGE.rglob("*.py"))
LONGEST = 60  # lines of a function, without its docstring


def floors():
    """Return the folders from the top to the bottom, as the contract of import-linter has them."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = [c for c in settings["tool"]["importlinter"]["contracts"] if c["type"] == "layers"]
    return contract["layers"]


def test_the_root_holds_no_module_of_its_own():
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "_version.py"}


def test_each_folder_is_a_floor():
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert folders == set(floors())


def test_the_page_on_architecture_has_the_floors_in_their_order():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert re.findall(r"(?m)^\|.*\| `(\w+)` \|", page) == floors()
    drawing = (ROOT / "docs" / "pictures" / "architecture.svg").read_text(encoding="utf-8")
    assert set(re.findall(r"\w+", drawing)) >= set(floors())


def length(function):
    """Return the lines of a function without its docstring."""
    first = function.body[0] if ast.get_docstring(function) is not None else None
    return (function.end_lineno - function.lineno) - (first.end_lineno - first.lineno if first else -1)


def test_no_function_is_long():
    found = {}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                found[f"{path.relative_to(PACKAGE)}: {node.name}"] = length(node)
    assert len(found) > 500
    assert {name: lines for name, lines in found.items() if lines > LONGEST} == {}
