"""The names of the classes of the data sets that can be loaded by name."""

import json
from pathlib import Path

_NAMES = Path(__file__).with_name("class_names.json")


def class_names(data_set: str) -> list[str]:
    """Return the classes of a data set in the order of their labels, which is that of TFDS."""
    return json.loads(_NAMES.read_text(encoding="utf-8"))[data_set]
