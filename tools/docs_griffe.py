"""An extension of Griffe, which reads the docstrings for the API reference."""

import re
from typing import Any

import griffe


class Docstrings(griffe.Extension):
    """Make Griffe see what the docstrings of this package mean."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Take a section "Example:" for examples, which Griffe knows as "Examples:"."""
        if obj.docstring:
            obj.docstring.value = re.sub(r"(?m)^Example:$", "Examples:", obj.docstring.value)

    def on_class_members(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        """Take the arguments of a class from its `__new__` where it has one: `LayerwiseLR`."""
        if "__new__" in cls.members:
            cls.members["__init__"] = cls.members["__new__"]
