"""The state of an optimizer, each part by the variable that it belongs to, in memory and in files."""

import json
from collections import Counter
from collections.abc import Collection, Hashable, Sequence
from typing import Any, TypeVar

import keras
import numpy as np

from keras_transfer._lib.keras_private.optimizer import (
    AVERAGES,
    iteration_variable,
    learning_rate_source,
    optimized_variables,
    shared_slots,
    slot_lists,
)
from keras_transfer.optimizers.patterns import known_paths

Owner = TypeVar("Owner", bound=Hashable)
_TABLE = "table"


def slots_by_owner(
    optimizer: keras.optimizers.Optimizer, owners: Sequence[Owner]
) -> dict[tuple[str, Owner], keras.Variable]:
    """Return the slots of a built optimizer by their names and by what stands for their variable.

    `owners` has that for each variable that it was built for, in its order.
    """
    return {
        (name, owner): entry
        for name, entries in slot_lists(optimizer).items()
        for owner, entry in zip(owners, entries, strict=True)
        if entry is not None
    }


def shared_by_birth(optimizer: keras.optimizers.Optimizer) -> dict[int, dict[str, keras.Variable]]:
    """Return the slots that belong to no single variable, by the birth of those they are for."""
    # What Keras knows of are those of the first birth.
    return vars(optimizer).get("_shared_by_birth") or {0: shared_slots(optimizer)}


def unowned(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    """Return the variables of a built optimizer of which nothing says whose they are."""
    known = [iteration_variable(optimizer), learning_rate_source(optimizer)]
    known += slots_by_owner(optimizer, range(len(optimized_variables(optimizer)))).values()
    known += [slot for slots in shared_by_birth(optimizer).values() for slot in slots.values()]
    known_ids = {id(variable) for variable in known}
    return [variable for variable in optimizer.variables if id(variable) not in known_ids]


def save_state(optimizer: keras.optimizers.Optimizer, births: Sequence[int], store: Any) -> None:
    """Write the state of a built optimizer into a store of Keras'.

    `births` has for each of its variables the step before its first.
    """
    owners = _owners(optimizer)
    parts = _parts(optimizer, owners)
    for number, variable in enumerate(parts.values()):
        store[str(number)] = keras.ops.convert_to_numpy(variable)
    # Names stand in a table, as a path is no good key: one may begin as another ends.
    table = {"births": list(zip(owners, births, strict=True)), "parts": list(parts)}
    store[_TABLE] = np.frombuffer(json.dumps(table).encode(), "uint8")


def load_state(optimizer: Any, store: Any) -> None:
    """Give a built `LayerwiseLR` the state that `save_state` wrote, by the paths of the variables.

    Variables that the file knows nothing of keep their initial slots and begin now: their bias
    correction counts from here, their moving average (EMA) is the variable itself.

    Raises:
        ValueError: the file holds no such state, or slots of another shape or optimizer. The optimizer
            is as it was.
    """
    if not optimizer.built or _TABLE not in store:
        raise ValueError(
            "a LayerwiseLR must be built, and the file must hold the state of one. "
            f"Received: {'a built' if optimizer.built else 'an unbuilt'} {type(optimizer).__name__} "
            f"and a file with {len(store.keys())} entries"
        )
    table = json.loads(np.asarray(store[_TABLE]).tobytes().decode())
    saved = {_name(part): store[str(number)] for number, part in enumerate(table["parts"])}
    saved_births = {_name(owner): birth for owner, birth in table["births"]}
    now = int(saved["iterations",])
    owners = _owners(optimizer)
    known = _known(owners, saved_births)
    births = [saved_births[known[owner]] if owner in known else now for owner in owners]
    before = list(optimizer.births)
    optimizer.set_births(births)
    # Under the names that the file has for them.
    parts = _parts(optimizer, [known.get(owner, owner) for owner in owners])
    in_file = set(known.values())
    wrong = [
        name
        for name, variable in parts.items()
        if (name in saved and saved[name].shape != tuple(variable.shape))
        or (name not in saved and (name[-1] in in_file or name[0] not in ("slot", "shared")))
    ]
    if wrong:
        optimizer.set_births(before)
        raise ValueError(
            "the file must hold the state of an optimizer of the same kind for variables of the same "
            f"shapes. Received: a file without a fitting {' '.join(map(str, wrong[0]))}"
        )
    for name, variable in parts.items():
        if name in saved:
            variable.assign(saved[name])
    for variable, owner in zip(optimized_variables(optimizer), owners, strict=True):
        average = parts.get(("slot", AVERAGES, owner))
        if owner not in known and average is not None:
            average.assign(np.array(keras.ops.convert_to_numpy(variable)))


def _parts(
    optimizer: keras.optimizers.Optimizer, owners: Sequence[Hashable]
) -> dict[tuple[Any, ...], keras.Variable]:
    """Return all state by names that files can hold."""
    parts: dict[tuple[Any, ...], keras.Variable] = {("iterations",): iteration_variable(optimizer)}
    rate = learning_rate_source(optimizer)
    if isinstance(rate, keras.Variable):
        parts["learning_rate",] = rate
    parts |= {("slot", *key): slot for key, slot in slots_by_owner(optimizer, owners).items()}
    for birth, slots in shared_by_birth(optimizer).items():
        parts |= {("shared", name, birth): slot for name, slot in slots.items()}
    return parts | {("other", number): slot for number, slot in enumerate(unowned(optimizer))}


def _owners(optimizer: keras.optimizers.Optimizer) -> list[tuple[str, int]]:
    """Return the paths of the variables, numbered where several have the same."""
    seen: Counter[str] = Counter()
    owners = []
    for variable in optimized_variables(optimizer):
        owners.append((variable.path, seen[variable.path]))
        seen[variable.path] += 1
    return owners


def _known(
    owners: Sequence[tuple[str, int]], saved: Collection[tuple[str, int]]
) -> dict[tuple[str, int], tuple[str, int]]:
    """Return for each owner that the file knows its name there."""
    paths = known_paths([path for path, _ in owners], {path for path, _ in saved})
    names = {(path, number): (paths[path], number) for path, number in owners if path in paths}
    return {owner: name for owner, name in names.items() if name in saved}


def _name(part: Any) -> Any:
    """Return a name as it was before JSON made lists of tuples."""
    return tuple(_name(item) for item in part) if isinstance(part, list) else part
