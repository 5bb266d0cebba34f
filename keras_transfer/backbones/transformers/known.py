"""Vision transformers of the Hugging Face Hub that are known by name, without the network."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import rich.box
import rich.table

from keras_transfer._lib.tables import PrintsAsTable
from keras_transfer.backbones.applications import plain_name
from keras_transfer.backbones.transformers.settings import network_of

_FILE = Path(__file__).with_name("known.json")


@dataclass(frozen=True)
class CheckpointRow:
    """One vision transformer of a `CheckpointTable`.

    Attributes:
        name: its name, such as "dinov2-small".
        repository: where its weights are, such as "facebook/dinov2-small".
        family: the architecture, as transformers calls it, such as "dinov2".
        parameters: how many numbers the weights of the network for images hold; a part for texts is
            neither counted nor built.
        input_size: height and width in pixels that the images have by default.
        patch: height and width in pixels of a patch, of which sizes of images are multiples.
        licence: the terms of its weights.
        gated: whether these must be accepted on its page before the weights can be fetched.
        settings: what `config.json` says that a network is made of.
        preprocessing: what `preprocessor_config.json` says otherwise than is usual for the family.
    """

    name: str
    repository: str
    family: str
    parameters: int
    input_size: int
    patch: int
    licence: str
    gated: bool
    settings: Mapping[str, Any]
    preprocessing: Mapping[str, Any]

    @property
    def terms(self) -> str:
        """The licence, and what it takes to get the weights."""
        page = f"https://huggingface.co/{self.repository}"
        return f"{self.licence}; " + (f"accept it at {page} first" if self.gated else f"see {page}")


class CheckpointTable(PrintsAsTable, tuple[CheckpointRow, ...]):
    """Vision transformers that are known by name: a tuple of `CheckpointRow`s that prints as a table."""

    def __rich__(self) -> rich.table.Table:
        table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
        table.add_column("backbone", no_wrap=True)
        for column in ("parameters", "input", "patch"):
            table.add_column(column, justify="right", no_wrap=True)
        table.add_column("licence")
        for row in self:
            licence = row.licence.partition(" (")[0] + (", to be accepted first" if row.gated else "")
            values = f"{row.parameters:,}", str(row.input_size), str(row.patch)
            table.add_row(row.name, *values, licence)
        return table


@cache
def list_checkpoints() -> CheckpointTable:
    """Return the vision transformers that are known by name, without any download."""
    listed = json.loads(_FILE.read_text(encoding="utf-8"))
    return CheckpointTable(_row(name, **about) for name, about in listed.items())


def _row(
    name: str,
    *,
    repository: str,
    parameters: int,
    licence: str,
    gated: bool,
    settings: Mapping[str, Any],
    preprocessing: Mapping[str, Any] | None = None,
    input_size: int | None = None,
) -> CheckpointRow:
    network = network_of(settings)
    return CheckpointRow(
        name,
        repository,
        settings["model_type"].removesuffix("_vision_model"),
        parameters,
        input_size or network.image_size[0],
        network.patch[0],
        licence,
        gated,
        settings,
        preprocessing or {},
    )


def known_checkpoint(name: str) -> CheckpointRow | None:
    """Return what is known of a checkpoint by its name in any spelling, or "hf://owner/name"."""
    plain = plain_name(name.removeprefix("hf://"))
    for row in list_checkpoints():
        if plain in (plain_name(row.name), plain_name(row.repository)):
            return row
    return None
