"""Which files are mapped into memory when the folder that they are in goes."""

import tempfile
from pathlib import Path

import pytest

MAPS = Path("/proc/self/maps")


def mapped(folder):
    """Return the files of a folder that this process has mapped into memory."""
    if not MAPS.exists():
        pytest.skip("the system doesn't tell what is mapped")
    return [line.split()[-1] for line in MAPS.read_text().splitlines() if f" {folder}/" in line]


def watch_folders(monkeypatch):
    """Return a list of what is mapped of each temporary folder with features when it goes."""
    found, cleanup = [], tempfile.TemporaryDirectory.cleanup

    def watched(self):
        if any(Path(self.name).rglob("*.bin")):
            found.append(mapped(self.name))
        cleanup(self)

    monkeypatch.setattr(tempfile.TemporaryDirectory, "cleanup", watched)
    return found
