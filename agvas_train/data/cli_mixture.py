"""`agvas-data mixture`: what a recipe draws from the data sets, counted and shown, before anything is trained."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

from agvas_runtime import console
from agvas_runtime.errors import InputError
from agvas_runtime.templates import default_templates
from agvas_train.data.conversation import GROUPS
from agvas_train.data.mixture.draw import Drawn, Mixture
from agvas_train.data.mixture.opening import open_mixture
from agvas_train.data.mixture.sheet import check_sheet, write_sheet
from agvas_train.options import make_config, read_options, recipe_path, with_data_root


def mixture(
    recipe: Annotated[str, typer.Argument(help="A recipe of agvas-train: a YAML file, or a shipped one's name.")],
    root: Annotated[str | None, typer.Option(help="Folder of the data sets, instead of the recipe's.")] = None,
    samples: Annotated[
        int, typer.Option(min=0, max=64, help="How many samples to decode and show, the run's first.")
    ] = 10,
    draws: Annotated[int, typer.Option(min=1, help="How many draws to count; nothing is decoded for them.")] = 20_000,
    out: Annotated[Path, typer.Option(help="Picture of the samples: image with mask, instruction, answer.")] = Path(
        "mixture.png"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    r"""Say what a recipe draws from the data sets: samples and shares of every set, and a picture of the first samples.

    \b
    Example: agvas-data mixture 7b --root datasets --out mixture.png
    """
    config = make_config(with_data_root(read_options(recipe_path(recipe)), root), source=recipe)
    if config.data is None:
        raise InputError(f"{recipe}: names no data sets, expected data.root in it, or --root")
    if samples:
        check_sheet(out)
    sets = open_mixture(config.data, config.mixture)
    limit = config.data.unreadable_limit
    mixed = Mixture(sets, default_templates(), config.mixture, seed=config.seed, unreadable_limit=limit)
    drawn = [mixed.draw(index) for index in console.progress(range(samples), "Decoding")]
    if drawn:
        write_sheet(drawn, out)
    found: dict[str, Any] = {
        "root": config.data.root,
        "draws": draws,
        "sets": rows(mixed, draws),
        "shown": list(map(_shown, drawn)),
    }
    if as_json:
        console.print_json(found | {"sheet": str(out) if drawn else None})
        return
    _print(found["sets"])
    if drawn:
        console.output().print(f"{out}: the first {len(drawn)} samples", markup=False, highlight=False)


def rows(mixed: Mixture, draws: int) -> list[dict[str, Any]]:
    """Of every set: its samples, its share by the weights, its share in so many draws, and of these the normal ones.

    `samples` leaves out what is never drawn: anomalous images without pixel labels.
    """
    picks = Counter((pick.part.set, pick.part.kind) for pick in map(mixed.pick, range(draws)))
    total = sum(mixed.tasks.values())
    listed = []
    for group, sets in mixed.sets.items():
        weight = sum(weight for task, weight in mixed.tasks.items() if GROUPS[task] is group) / total
        for parts in sets:
            count = sum(picks[part.set, part.kind] for part in parts)
            halves = any(part.kind for part in parts)
            listed.append(
                {
                    "group": group.value,
                    "set": parts[0].set,
                    "samples": sum(len(part.samples) for part in parts),
                    "share": weight / len(sets),
                    "drawn": count / draws,
                    "normal": picks[parts[0].set, "normal"] / count if halves and count else None,
                }
            )
    return listed


def _shown(drawn: Drawn) -> dict[str, Any]:
    turn = drawn.turn
    return {
        "set": drawn.source.set,
        "index": drawn.source.index,
        "task": turn.task.value,
        "turns": [[turn.instruction, turn.answer], *map(list, turn.more)],
        "mask_px": None if turn.mask is None else int(turn.mask.sum()),
    }


def _print(listed: list[dict[str, Any]]) -> None:
    table = Table("group", "set", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for head in ("samples", "share", "drawn", "normal"):
        table.add_column(head, justify="right", no_wrap=True)
    group = ""
    for row in listed:
        shares = ["-" if row[name] is None else f"{100 * row[name]:.1f} %" for name in ("share", "drawn", "normal")]
        table.add_row("" if row["group"] == group else row["group"], row["set"], f"{row['samples']:,}", *shares)
        group = row["group"]
    console.output().print(table)
