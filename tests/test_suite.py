"""The tables of the suite name what there is."""

import ast

import pytest
import where
from families import APPLICATIONS, FIRST


def names_of(path):
    """Return the names of classes and functions of a test file, as in the ids of tests."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{each.name}" for each in node.body if hasattr(each, "name")}
    return found


@pytest.mark.parametrize("place", list(where.every_place()))
def test_each_place_is_there(place):
    name, _, test = place.partition("::")
    path = where.FOLDER / name
    assert path.exists()
    if test:
        start, _, case = test.removesuffix("::").partition("[")
        names = names_of(path)
        assert start in names if case else any(each.startswith(start) for each in names)


@pytest.mark.parametrize("group", where.GROUPS, ids=lambda group: group.places[0])
def test_what_runs_everywhere_all_the_same_is_in_the_group(group):
    assert all(each.startswith(group.places) for each in group.but)
    assert group.reason
    assert group.backend in where.CHEAPEST_FIRST


def test_no_place_is_named_twice():
    for group in where.GROUPS:
        others = [place for each in where.GROUPS for place in each.places if place not in group.but]
        for place in group.places:
            assert [each for each in others if each.startswith(place)] == [place]


def test_a_group_runs_on_its_backend_or_the_cheapest_there_is(monkeypatch):
    group = where.Group("jax", "", ())
    monkeypatch.setattr(where, "find_spec", lambda name: name)
    assert [name for name in where.CHEAPEST_FIRST if where.runs_here(group, name)] == ["jax"]
    monkeypatch.setattr(where, "find_spec", lambda name: name == "tensorflow" or None)
    assert [name for name in where.CHEAPEST_FIRST if where.runs_here(group, name)] == ["tensorflow"]


def test_a_file_is_read_where_some_of_its_tests_run(monkeypatch):
    group = where.Group("torch", "", ("a.py", "b.py"), but=("a.py::test_one",))
    monkeypatch.setattr(where, "GROUPS", (group,))
    found = {place: where.alone(place) for place in ("a.py", "a.py::test_one[x]", "a.py::test_two")}
    assert found == {"a.py": None, "a.py::test_one[x]": None, "a.py::test_two": group}
    assert where.alone("b.py") is where.alone("b.py::test_one") is group
    assert where.alone("c.py") is None


def test_the_first_of_each_family_are_applications():
    assert set(APPLICATIONS) >= FIRST
