"""The paper's test sets below one root (ROOT/anomaly_seg/<SET>), scored one after the other."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from rich.table import Table

from agvas_runtime import console
from agvas_runtime.datasets import VISA_SPLIT, Dataset, load_dataset, meta_file
from agvas_runtime.errors import InputError
from agvas_runtime.evaluate.paper import beside_paper, check_categories
from agvas_runtime.evaluate.report import (
    HEADS,
    PAPER,
    as_report,
    check_results,
    make_table,
    number,
    write_json,
    write_results,
)
from agvas_runtime.evaluate.run import choose, evaluate_dataset, settings_of
from agvas_runtime.evaluate.sources import Maps, Source
from agvas_runtime.evaluate.unfinished import check_out
from agvas_runtime.files import check_folder

FOLDER = "anomaly_seg"
MVTEC = "mvtec"
SETS = (MVTEC, "visa", "KSDD2", "RSDD", "ISIC", "ClinicDB", "ColonDB", "BTAD", "DAGM")
"""Their folders; `agvas-data standardize` makes them."""


def find_benchmarks(root: Path) -> list[Dataset]:
    """The test sets that are there. Raises InputError where there is none, or one of them cannot be read."""
    folders = [root / FOLDER / name for name in SETS if (root / FOLDER / name).is_dir()]
    if not folders:
        raise InputError(f"{root}: found no test set, expected some of {', '.join(SETS)} in {root / FOLDER}")
    datasets = [_load(folder) for folder in folders]
    if datasets[0].name == MVTEC:
        check_categories(MVTEC, datasets[0].categories)
    return datasets


def evaluate_benchmarks(
    source: Source,
    datasets: Sequence[Dataset],
    out: Path | None,
    limit: int | None = None,
    size: int | None = None,
    jobs: int = 1,
    resume: bool = False,
    threshold: float | None = None,
) -> dict[str, Any]:
    """Score every set, as `evaluate_dataset` does one.

    Whether every set's results can be written is looked at before the first is scored.

    Args:
        source: what answers; of a folder of maps each set has its own folder in it.
        datasets: the sets.
        out: each set's results go to its own folder in it, and what is returned to benchmarks.json.
        limit: images of each category.
        size: of the scored images.
        jobs: processes.
        resume: take over the sets that an interrupted run finished, and go on with the one it was at.
        threshold: of the maps, for the report.

    Returns:
        "sets": each set's report by its name; "paper": the paper's tables beside ours, None without MVTec-AD.
    """
    todo = []
    for dataset in datasets:
        own, place = _own_maps(source, dataset), out / dataset.name if out else None
        settings = settings_of(own, choose(dataset, limit), limit, size)
        report = _finished(place / "results.json", settings) if place and resume else None
        if place and report is None:
            check_folder(place)
            check_out(place, settings, resume)
        todo.append((dataset, own, place, report))
    reports = {}
    for dataset, own, place, report in todo:
        if report is None:
            done = evaluate_dataset(own, dataset, limit, place, size, jobs, resume)
            report = as_report(done.evaluation, dataset.name, done.settings, threshold)
            report["weights"] = done.weights_note
            if place:
                write_results(place, report, done.evaluation)
        reports[dataset.name] = report
    results = {"sets": reports, "paper": beside_paper(reports[MVTEC]) if MVTEC in reports else None}
    if out:
        write_json(out / "benchmarks.json", results)
    return results


def _load(folder: Path) -> Dataset:
    try:
        return replace(load_dataset(folder), name=folder.name)
    except InputError as error:
        if meta_file(folder) or (folder / VISA_SPLIT).is_file():
            raise
        hint = f"agvas-data standardize {folder.name.lower()} makes one of the original download"
        raise InputError(f"{error}; {hint}, which must lie elsewhere") from None


def _own_maps(source: Source, dataset: Dataset) -> Source:
    """The source for one set: maps lie in a folder of its name, with which the names of the paper's own lists begin."""
    if not isinstance(source, Maps):
        return source
    item = dataset.items[0]
    named_from = item.image.parents[len(PurePosixPath(item.name).parts) - 1]
    return replace(source, folder=source.folder / dataset.name) if named_from.name == dataset.name else source


def summary_table(reports: dict[str, dict[str, Any]]) -> Table:
    """A row a set: its images, and the means over its categories."""
    heads = ("categories", "images", "defective", *(HEADS[name] for name in PAPER))
    table = make_table("Percent, mean over the categories", "set", heads)
    for name, report in reports.items():
        mean = report["mean"]
        counts = (len(report["categories"]), mean["images"], mean["anomalous"])
        table.add_row(name, *map(str, counts), *(number(mean[figure]) for figure in PAPER))
    return table


def _finished(file: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The report of a set that is done; None where it is not. Raises InputError where it has other settings."""
    if not file.is_file():
        return None
    try:
        report: dict[str, Any] = json.loads(file.read_text("utf-8"))
        check_results(report)
        found = {**report, "instruction": report["own_instruction"]}
        _ = report["mean"]["images"], report["mean"]["anomalous"], report["weights"], len(report["no_answers"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise InputError(f"{file}: no results of agvas-eval ({console.one_line(str(error))})") from None
    for name, value in settings.items():
        if found.get(name) != value:
            told = f"found {found.get(name)!r}, expected {value!r}"
            raise InputError(f"{file}: {name}: {told}; --resume goes on with the interrupted run's settings only")
    return report
