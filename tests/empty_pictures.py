"""Figures that are saved without being drawn."""

import contextlib

import pytest


@contextlib.contextmanager
def empty_pictures():
    """Let figures be saved as empty sheets of their size: to draw one takes a quarter of a second.

    For what looks at no picture. Each kind is drawn in reports/, and all that pages show in
    test_python of test_documentation.py.
    """
    figure = pytest.importorskip("matplotlib.figure").Figure
    save = figure.savefig

    def save_empty(self, *arguments, **options):
        return save(figure(figsize=self.get_size_inches()), *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figure, "savefig", save_empty)
        yield
