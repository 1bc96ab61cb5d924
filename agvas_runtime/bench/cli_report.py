"""agvas-bench report: the command. What it writes is in report/."""

from pathlib import Path
from typing import Annotated

import typer

from agvas_runtime import console


def report(
    files: Annotated[list[Path], typer.Argument(help="Reports of agvas-bench engine and serve (--out).")],
    out: Annotated[Path, typer.Option(help="Folder for the page, its plots and report.json.")] = Path("report"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the files written as JSON.")] = False,
) -> None:
    r"""Show measurements: one page that needs nothing else, the plots as PNG, and all of it as JSON.

    The folder may be new, empty, or hold an earlier report (a report.json), which is replaced; its other files are left
    alone. Needs the extra `report`.

    \b
    Examples:
      agvas-bench report engines.json
      agvas-bench report engines.json serving.json --out results/
    """
    from agvas_runtime.bench.report import write_report
    from agvas_runtime.bench.report.schema import read_report

    written = write_report([read_report(path) for path in files], out)
    if as_json:
        console.print_json([str(path) for path in written])
    else:
        print("\n".join(map(str, written)))
