"""`agvas-data check`: what of the paper's data sets is there, what is missing, what is broken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

from agvas_runtime import console
from agvas_runtime.errors import InputError
from agvas_runtime.templates import Templates, default_templates
from agvas_train.data.conversation import GROUPS, Task, draw_turn
from agvas_train.data.sets.adapter import Adapter, Counts
from agvas_train.data.sets.registry import REGISTRY, SetEntry

NAMED_FAULTS = 3
"""How many faults of a set are named."""


@dataclass(frozen=True)
class Checked:
    """What is known of one set.

    Attributes:
        state: "there", "incomplete" (its own files are there, not all that it needs) or "absent".
        missing: paths below the root that are not there.
        looked_at: how many samples were read and decoded.
        broken: how many of them could not be, or 1 where the set's list cannot be read.
        faults: the first of them, a line each.
    """

    name: str
    group: str
    in_mixture: bool
    page: str
    state: str
    missing: list[str]
    counts: Counts | None = None
    looked_at: int = 0
    broken: int = 0
    faults: tuple[str, ...] = ()


def check(
    root: Annotated[Path, typer.Argument(help="The folder that holds the data sets, in the paper's tree.")],
    sample: Annotated[int, typer.Option(min=1, help="Samples of each set to read, evenly spread.")] = 20,
    every: Annotated[bool, typer.Option("--all", help="Read every sample of every set.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Say of each data set what is there, what is missing and what is broken, and which page offers it.

    Exit code 1 if anything that is there is broken. Nothing is downloaded or changed.
    """
    if not root.is_dir():
        raise InputError(f"{root}: found no folder, expected the root of the data sets")
    checked = [check_set(entry, root, None if every else sample) for entry in REGISTRY.values()]
    sound = not any(each.broken for each in checked)
    if as_json:
        console.print_json({"root": str(root), "sound": sound, "sets": [asdict(each) for each in checked]})
    else:
        _print(checked)
    if not sound:
        raise typer.Exit(1)


def check_set(entry: SetEntry, root: Path, most: int | None) -> Checked:
    """Look at one set below the root: all its samples, or this many of them."""
    missing = entry.missing(root)
    state = "absent" if not entry.is_there(root) else "incomplete" if missing else "there"
    head = (entry.name, entry.group.value, entry.in_mixture, entry.page, state, missing)
    if state != "there":
        return Checked(*head)
    adapter = entry.open(root)
    try:
        counts = adapter.describe()
        if not len(adapter):
            raise InputError(f"{root / entry.paths[0][0]}: found no samples, expected some")
    except InputError as error:
        return Checked(*head, broken=1, faults=(str(error),))
    indexes = spread(len(adapter), most)
    tasks, templates = [task for task, group in GROUPS.items() if group is entry.group], default_templates()
    shown = console.progress(indexes, entry.name)
    faults = [fault for index in shown if (fault := fault_of(adapter, index, tasks, templates))]
    return Checked(*head, counts, len(indexes), len(faults), tuple(faults[:NAMED_FAULTS]))


def spread(count: int, most: int | None) -> list[int]:
    """At most so many of the indexes below `count`, evenly spread, the first and the last among them."""
    if most is None or most >= count:
        return list(range(count))
    return [round(place * (count - 1) / max(most - 1, 1)) for place in range(most)]


def fault_of(adapter: Adapter, index: int, tasks: Sequence[Task], templates: Templates) -> str | None:
    """What keeps a sample from being used: its decoded image, its masks, or what is asked about it in these tasks.

    None when it is sound.
    """
    try:
        sample = adapter.sample(index)
        _ = sample.pixels
        for task in tasks:
            draw_turn(task, sample, templates, Random(index))
    except InputError as error:
        return str(error)
    return None


def _print(checked: list[Checked]) -> None:
    out = console.output()
    out.print(_table([each for each in checked if each.state == "there"]))
    for each in checked:
        for fault in each.faults:
            out.print(f"{each.name}: {fault}", style="red", markup=False, highlight=False, soft_wrap=True)
        if each.broken > len(each.faults):
            out.print(f"{each.name}: {each.broken - len(each.faults)} more like these", style="red", highlight=False)
    gone = [each for each in checked if each.state != "there"]
    if gone:
        table = _plain("Not there", "set", "group")
        table.add_column("missing", overflow="fold")
        table.add_column("offered by")
        for each in gone:
            table.add_row(each.name, each.group, "\n".join(each.missing), each.page)
        out.print(table)


def _table(checked: list[Checked]) -> Table:
    table = _plain("There", "set", "group")
    heads = ("images", "masks", "normal", "anomalous", "classes", "looked at", "broken")
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for each in checked:
        counted: dict[str, Any] = asdict(each.counts) if each.counts else {}
        figures = [counted.get(head) for head in heads[:5]] + [each.looked_at, each.broken]
        cells = ["-" if figure is None else f"{figure:,}" for figure in figures]
        table.add_row(each.name, each.group, *cells, style="red" if each.broken else "")
    return table


def _plain(title: str, *heads: str) -> Table:
    return Table(*heads, title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
