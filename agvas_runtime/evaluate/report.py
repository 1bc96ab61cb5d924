"""The results as JSON and as tables, alone or beside earlier ones in the paper's layout (Tables A.4 to A.7).

Names that users chose (categories, data sets, folders) are put into tables as they are: none is taken for markup.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from agvas_runtime import __version__, console
from agvas_runtime.errors import InputError
from agvas_runtime.evaluate.rows import Evaluation, Row
from agvas_runtime.files import write_whole
from agvas_runtime.metrics import PRO_LIMIT

HEADS = {
    "ap": "AP", "f1_max": "F1-Max", "iou_ano": "IoU_ano", "iou_nor": "IoU_nor", "auroc": "AUROC", "pro": "PRO",
    "image_auroc": "image\nAUROC", "answer_auroc": "answer\nAUROC", "region_recall": "region\nrecall",
    "regions_found": "regions\nfound", "several_found": "of\nseveral", "area_ratio": "area\nratio",
}  # fmt: skip
PAPER = ("ap", "f1_max", "iou_ano", "iou_nor")


def as_report(
    evaluation: Evaluation, dataset: str, settings: dict[str, Any], threshold: float | None = None
) -> dict[str, Any]:
    """The results for a machine: figures in percent, undefined ones NaN (null in JSON).

    Args:
        evaluation: what was found.
        dataset: its name.
        settings: what `run.settings_of` says.
        threshold: of another program's maps; None means the model's or 0.5.
    """
    mean = asdict(evaluation.mean())
    del mean["category"]
    return {
        "schema": 2,
        "agvas": __version__,
        "dataset": dataset,
        **settings,
        "instruction": evaluation.instruction,
        "protocol": protocol(settings.get("size"), threshold),
        "categories": [asdict(row) for row in evaluation.rows],
        "mean": mean,
        "own_instruction": settings.get("instruction"),
        "no_answers": [{"image": record.name, "reason": record.reason} for record in evaluation.no_answers],
    }


def protocol(size: int | None, threshold: float | None) -> dict[str, Any]:
    """How the figures were made, in words and numbers."""
    return {
        "size": "each image's own" if size is None else f"{size} x {size}, map bilinear, ground truth at least half",
        "defect": "ground truth above half of its format's range; above 0 where its maximum is 1 or it is VisA's own",
        "rejected": "zero map",
        "no_answer": "zero map, counted apart",
        "mask": "map above the model's threshold" if threshold is None else f"map above {threshold:g}",
        "pixels": "all pixels of a category; exact, equal scores are one threshold",
        "iou_ano": "mean over defective images; those whose mask and ground truth are both empty left out",
        "iou_nor": "share of normal images with an empty mask",
        "pro_limit": PRO_LIMIT,
        "regions": "8-connected",
        "image_score": "maximum of the map",
        "mean": "over the categories where a figure is defined",
    }


def figure_table(evaluation: Evaluation, dataset: str) -> Table:
    """The figures for a person: a row a category, then the mean."""
    mean = evaluation.mean()
    shown = [name for name in HEADS if name in PAPER or getattr(mean, name) == getattr(mean, name)]
    table = make_table(f"{dataset}: percent, mean over the categories", "category", [HEADS[name] for name in shown])
    for row in evaluation.rows:
        table.add_row(plain(row.category), *(number(getattr(row, name)) for name in shown))
    table.add_section()
    table.add_row("mean", *(number(getattr(mean, name)) for name in shown), style="bold")
    return table


def count_table(evaluation: Evaluation) -> Table:
    """How many images there were of each sort, what became of them, and what one took."""
    heads = ("images", "normal", "defective", "regions", "rejected\nnormal", "rejected\ndefective", "no\nanswer")
    table = make_table("", "category", [*heads, "ms/image"])
    for row in evaluation.rows:
        table.add_row(*_counts(row))
    table.add_section()
    table.add_row(*_counts(evaluation.mean()), style="bold")
    return table


def _counts(row: Row) -> list[str | Text]:
    counts = (row.images, row.normal, row.anomalous, row.regions, row.rejected_normals, row.rejected_defectives)
    return [plain(row.category), *map(str, counts), str(row.no_answer), number(row.ms_per_image)]


def beside_tables(report: dict[str, Any], others: Sequence[tuple[str, dict[str, Any]]]) -> list[Table]:
    """A table for each of the paper's figures: a row a category, a column for each of the others and for this one.

    A star marks those of other images or at another size, which say nothing beside these.
    """
    columns = [(name if comparable(report, other) else f"{name} *", other) for name, other in others]
    columns.append(("this", report))
    names = [row["category"] for row in report["categories"]]
    tables = []
    for figure in PAPER:
        table = make_table(f"{report['dataset']}: {HEADS[figure]}, percent", "object", [name for name, _ in columns])
        found = [{row["category"]: row[figure] for row in each["categories"]} for _, each in columns]
        for name in names:
            table.add_row(plain(name), *(number(each.get(name)) for each in found))
        table.add_section()
        table.add_row("mean", *(number(each["mean"][figure]) for _, each in columns), style="bold")
        tables.append(table)
    return tables


def comparable(report: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two results are of the same images, scored at the same size."""
    return all(report.get(name) == other.get(name) for name in ("images_sha256", "size"))


def read_results(path: Path, dataset: str) -> tuple[str, dict[str, Any]]:
    """An earlier results.json of the same data set, and its name: its folder's. Raises InputError."""
    path = path / "results.json" if path.is_dir() else path
    try:
        report = json.loads(path.read_text("utf-8"))
        check_results(report)
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise InputError(f"{path}: no results of agvas-eval ({console.one_line(str(error))})") from None
    if report["dataset"] != dataset:
        raise InputError(f"{path}: results of data set {report['dataset']!r}, expected {dataset!r}")
    return path.resolve().parent.name, report


def check_results(report: Any) -> None:
    """Raise KeyError, TypeError or OverflowError where something is no results that the tables can show."""
    for place in [report] if not isinstance(report, dict) else [report["mean"], *report["categories"]]:
        if not isinstance(place, dict):
            raise TypeError(f"found {console.one_line(repr(place))[:60]}, expected an object")
    for name, text in [
        ("dataset", report["dataset"]),
        *(("category", row["category"]) for row in report["categories"]),
    ]:
        if not isinstance(text, str):
            raise TypeError(f"{name}: found {console.one_line(repr(text))[:60]}, expected a name")
    for name, figure in [(name, row[name]) for row in (*report["categories"], report["mean"]) for name in PAPER]:
        if not isinstance(figure, int | float | None):
            raise TypeError(f"{name}: found {console.one_line(repr(figure))[:60]}, expected a number or null")
        float(figure or 0)  # a whole number may be larger than any


def write_results(out: Path, report: dict[str, Any], evaluation: Evaluation) -> None:
    """Write results.json and images.jsonl (a line an image), and drop what was kept of the unfinished evaluation."""
    lines = [json.dumps(console.finite(asdict(record))) for record in evaluation.records]
    write_whole(out / "images.jsonl", "".join(f"{line}\n" for line in lines).encode())
    write_json(out / "results.json", report)
    shutil.rmtree(out / "unfinished", ignore_errors=True)


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a JSON document, undefined figures as null. Raises EngineError."""
    write_whole(path, (json.dumps(console.finite(document), indent=2) + "\n").encode())


def number(value: float | None) -> str:
    """A figure with one decimal, or n/a."""
    return "n/a" if value is None or value != value else f"{value:.1f}"


def plain(name: str) -> Text:
    """A name as it is, on one line: neither markup nor an emoji's code in it means anything."""
    return Text(console.one_line(name))


def make_table(title: str, first: str, heads: Sequence[str]) -> Table:
    """An empty table: its title, the head of its names, the heads of its figures."""
    shown = Text(console.one_line(title), "italic") if title else None
    table = Table(title=shown, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column(first, overflow="fold")
    for head in heads:
        table.add_column(Text(head), justify="right", overflow="fold")
    return table
