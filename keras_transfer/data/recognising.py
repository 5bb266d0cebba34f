"""What somebody's path has: folders of classes, a table, or a data set in a format of its own."""

from pathlib import Path
from typing import Any, NamedTuple

from keras_transfer.data import columns, huggingface, layout, table, webdataset
from keras_transfer.data.directory import Level, folder_of, from_directory
from keras_transfer.data.loader import Loader
from keras_transfer.data.rows import TABLES, Table, read_table


class Named(NamedTuple):
    """What somebody names of a table, each None where it is to be guessed.

    Attributes:
        images: the folder in which the names of images begin.
        image_column: the column of the images.
        label_column: the column of the classes.
        split_column: the column of the parts.
        label_separator: what stands between two labels of an image.
        group_column: the column of the groups.
    """

    images: Path | None = None
    image_column: str | None = None
    label_column: str | None = None
    split_column: str | None = None
    label_separator: str | None = None
    group_column: str | None = None


def parts(path: Path, named: Named) -> tuple[layout.Division | None, str | None]:
    """Return the parts of what is divided, or None, and what is to be told of where it is read.

    Args:
        path: what the user named.
        named: what else.

    Raises:
        ValueError: it can't be read, or options don't fit what it is.
    """
    if huggingface.is_dataset(path):
        return huggingface.parts_of(path), None
    if not is_table(path):
        _check_no_columns(path, named)
        return None if is_shards(path) else layout.division(folder_of(path)), None
    read, found = _read(path, named)
    return table.division_of(read, found), str(found) if found.guessed else None


def open_images(
    path: Path,
    part: str | None,
    named: Named,
    *,
    follow_links: bool = False,
    group_pattern: str | None = None,
    level: Level = 1,
    **how: Any,
) -> Loader:
    """Return the images that somebody's path has.

    Args:
        path: what the user named.
        part: which part of it, or None.
        named: what else.
        follow_links: as in `from_directory`; of a table all files count that it names.
        group_pattern: as there; of folders and tables.
        level: as there; of folders.
        **how: what `from_directory` and `from_table` both take.

    Raises:
        ValueError, TypeError: as these.
    """
    table_, dataset = is_table(path), huggingface.is_dataset(path)
    shards = not table_ and not dataset and is_shards(path)
    if level != 1 and (table_ or dataset or shards):
        raise _not_of_this("level", level, path, "folders")
    if group_pattern is not None and (dataset or shards):
        raise _not_of_this("group_pattern", group_pattern, path, "folders or a table")
    if table_:
        return table.from_table(path, part=part, group_pattern=group_pattern, **named._asdict(), **how)
    if dataset:
        image, label = named.image_column, named.label_column
        _check_no_columns(path, named._replace(image_column=None, label_column=None))
        return huggingface.from_huggingface(
            path, part=part, image_column=image, label_column=label, **how
        )
    _check_no_columns(path, named)
    if shards:
        return webdataset.from_webdataset(path, **how)
    folders: dict[str, Any] = {
        "follow_links": follow_links,
        "group_pattern": group_pattern,
        "level": level,
    }
    return from_directory(path, part=part, **folders, **how)


def _not_of_this(argument: str, value: Any, path: Path, kind: str) -> ValueError:
    return ValueError(
        f"{argument} must be given with {kind}. Received: {argument}={value!r} with {str(path)!r}"
    )


def is_table(path: Path) -> bool:
    """Whether a path is that of a table, by its ending."""
    return path.suffix.lower() in TABLES and not path.is_dir()


def is_shards(path: Path) -> bool:
    """Whether a path is that of a shard of a WebDataset, or of a folder of such and nothing else."""
    if not path.is_dir():
        return path.suffix == ".tar" and webdataset.is_shard(path)
    shards = sorted(path.glob("*.tar"))
    return bool(shards) and not layout.folders_in(path) and webdataset.is_shard(shards[0])


def _read(path: Path, named: Named) -> tuple[Table, columns.Columns]:
    read = read_table(path)
    names = named.image_column, named.label_column, named.split_column, named.group_column
    return read, columns.chosen(read, *names)


def _check_no_columns(path: Path, named: Named) -> None:
    """Raise a `ValueError` if something is said of a table that is none."""
    given = {name: value for name, value in named._asdict().items() if value is not None}
    if given:
        name, value = next(iter(given.items()))
        raise ValueError(
            f"{name} must be given with a table, a CSV or TSV file, alone. "
            f"Received: {name}={str(value)!r} with directory={str(path)!r}"
        )
