"""Which sets a recipe draws from, and whether they are the ones that a run began with. Nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from agvas_runtime import console
from agvas_runtime.errors import InputError
from agvas_train.config import DataConfig
from agvas_train.data.conversation import GROUPS, Task
from agvas_train.data.sets.adapter import Adapter
from agvas_train.data.sets.registry import REGISTRY, Group, find_set, open_sets


def wanted_sets(data: DataConfig, tasks: Mapping[Task, float]) -> tuple[list[str], list[str]]:
    """The sets that take part, and those of Table A.1 that would but are not wholly there.

    Raises:
        InputError: a named set does not exist, is for testing only, has no task or is not wholly there; or a task has
            no set.
    """
    groups = {GROUPS[task] for task, weight in tasks.items() if weight > 0}
    root = Path(data.root)
    if not root.is_dir():
        raise InputError(f"{root}: found no folder, expected the root of the data sets (data.root, --data)")
    names, missing = list(data.samples or data.sets or ()), []
    for name in names:
        _check_set(name, groups)
        REGISTRY[name].require(root)
    if not names:
        listed = [entry for entry in REGISTRY.values() if entry.in_mixture and entry.group in groups]
        missing = [entry.name for entry in listed if entry.missing(root)]
        names = [entry.name for entry in listed if entry.name not in missing]
    for group in Group:
        if group in groups and not any(REGISTRY[name].group is group for name in names):
            expected = ", ".join(e.name for e in REGISTRY.values() if e.in_mixture and e.group is group)
            raise InputError(
                f"{root}: found no set of {group.value}, which the mixture draws; expected one of {expected}"
            )
    return names, missing


def _check_set(name: str, groups: set[Group]) -> None:
    group = find_set(name).group
    if group is Group.TEST:
        raise InputError(f"data.sets: {name} is for testing only, expected sets to train on")
    if group not in groups:
        raise InputError(f"data.sets: {name}: found no weight for {group.value} in the mixture, expected one")


def open_mixture(
    data: DataConfig, tasks: Mapping[Task, float], report: Callable[[str], None] = console.note
) -> dict[str, Adapter]:
    """The sets that take part, by name, their lists read; those of Table A.1 that are not there are told of once.

    Raises:
        InputError: as `wanted_sets`; a list of a set cannot be read or is empty, or a set has not as many samples as
            when the run began.
    """
    names, missing = wanted_sets(data, tasks)
    if missing:
        report(f"{data.root}: left out of the mixture, not there: {', '.join(missing)}")
    opened = open_sets(data.root, names)
    for name, adapter in opened.items():
        adapter.read_lists()
        expected = (data.samples or {}).get(name)
        if not len(adapter):
            raise InputError(f"{name}: found no samples in {data.root}, expected some")
        if expected not in (None, len(adapter)):
            raise InputError(f"{name}: found {len(adapter)} samples, expected {expected} as when the run began")
    return opened


def check_alike(counts: Sequence[Mapping[str, int]]) -> None:
    """Look whether every process has opened the same sets with as many samples.

    Args:
        counts: samples by set, of each process.

    Raises:
        InputError: two differ; their streams would not be one. The message names the first such set.
    """
    for process, found in enumerate(counts):
        for name in {**counts[0], **found}:
            if found.get(name) != counts[0].get(name):
                here, there = (each.get(name, 0) for each in (found, counts[0]))
                raise InputError(f"{name}: found {here} samples in process {process}, expected {there} as in process 0")
