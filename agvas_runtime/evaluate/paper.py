"""Ours beside the paper's own figures: Tables A.4 to A.7, ten methods on MVTec-AD's fifteen categories.

The figures stand in paper_figures.json, number by number as they are printed.
"""

import json
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import Any

from rich.table import Table

from agvas_runtime.errors import InputError
from agvas_runtime.evaluate.report import HEADS, make_table, number, plain
from agvas_runtime.metrics import mean

THIS = "this"
"""The head of our column."""
MEAN = "mean"


@cache
def paper_figures() -> dict[str, Any]:
    """The data file: "source", "methods", and of each figure the "table" and its "rows" (categories, "mean")."""
    figures: dict[str, Any] = json.loads((files("agvas_runtime") / "paper_figures.json").read_text("utf-8"))
    return figures


def categories() -> list[str]:
    """The categories of the paper's tables, in their order."""
    return [name for name in paper_figures()["tables"]["ap"]["rows"] if name != MEAN]


def check_categories(dataset: str, names: Iterable[str]) -> None:
    """Raise InputError where a data set has none of the paper's categories, and so nothing to put beside them."""
    names = list(names)
    if not set(names) & set(categories()):
        found, expected = ", ".join(names[:5]), ", ".join(categories())
        raise InputError(f"{dataset}: found the categories {found}; expected some of the paper's tables: {expected}")


def beside_paper(report: dict[str, Any]) -> dict[str, Any]:
    """The paper's tables with our column behind theirs, from a report of `as_report`, for JSON and for tables.

    Of categories that are not there, ours are None. So is our mean unless all fifteen are there: then "mean of N" is
    that of the N categories that are, theirs and ours.

    Returns:
        "source", "columns" (the methods, "this"), of each figure its "table" and "rows", in percent, and "notes": how
        our categories are others than the paper's.
    """
    paper, tables = paper_figures(), {}
    for figure, table in paper["tables"].items():
        ours = {row["category"]: row[figure] for row in report["categories"] if _defined(row[figure])}
        rows = {name: [*table["rows"][name], ours.get(name)] for name in categories()}
        there = [values for name, values in rows.items() if name in ours]
        means = [mean(column) for column in zip(*there, strict=True)]
        whole = len(there) == len(rows)
        rows[MEAN] = [*table["rows"][MEAN], means[-1] if whole else None]
        if there and not whole:
            rows[f"mean of {len(there)}"] = means
        tables[figure] = {"table": table["table"], "rows": rows}
    notes = _notes([row["category"] for row in report["categories"]])
    return {"source": paper["source"], "columns": [*paper["methods"], THIS], "tables": tables, "notes": notes}


def paper_tables(beside: dict[str, Any]) -> list[Table]:
    """What `beside_paper` gave, as tables in the paper's layout."""
    tables = []
    for figure, each in beside["tables"].items():
        table = make_table(f"Table {each['table']}: {HEADS[figure]} on MVTec-AD, percent", "object", beside["columns"])
        table.collapse_padding = True  # twelve columns in 120
        for name, values in each["rows"].items():
            if name == MEAN:
                table.add_section()
            table.add_row(plain(name), *map(number, values), style="bold" if name.startswith(MEAN) else "")
        tables.append(table)
    return tables


def _notes(ours: list[str]) -> list[str]:
    """What stands between our means and the paper's."""
    missing = [name for name in categories() if name not in ours]
    others = [name for name in ours if name not in categories()]
    notes = []
    if missing:
        there = len(categories()) - len(missing)
        notes.append(f"ours are {there} of the paper's {len(categories())} categories, without {', '.join(missing)}")
    if others:
        notes.append(f"not among the paper's categories, and so not in its tables: {', '.join(others)}")
    return notes


def _defined(value: float | None) -> bool:
    return value is not None and value == value
