"""agvas-eval: the command line. What is done is in run.py, what is said of it in report.py."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from agvas_runtime import console
from agvas_runtime.cpu import usable_cores
from agvas_runtime.datasets import load_dataset
from agvas_runtime.engines.registry import OF_BUNDLES
from agvas_runtime.errors import InputError
from agvas_runtime.evaluate import report as reports
from agvas_runtime.evaluate.benchmarks import evaluate_benchmarks, find_benchmarks, summary_table
from agvas_runtime.evaluate.paper import beside_paper, check_categories, paper_tables
from agvas_runtime.evaluate.rows import Evaluation
from agvas_runtime.evaluate.run import evaluate_dataset
from agvas_runtime.evaluate.sources import Maps, Model, Source
from agvas_runtime.files import make_folder
from agvas_runtime.modes import Mode, Request

LARGEST = float(np.finfo(np.float32).max)
"""Of the scores of a map."""

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def evaluate(
    data: Annotated[Path, typer.Argument(help="Folder in MVTec's layout or with a meta.json; or a meta_<SET>.json.")],
    bundle: Annotated[Path | None, typer.Option(help="Bundle to evaluate [default: the embedded one].")] = None,
    engine: Annotated[
        str, typer.Option(help=f"{', '.join(OF_BUNDLES)} (a bundle); reference, compiled-decode (a checkpoint).")
    ] = "ort",
    checkpoint: Annotated[Path | None, typer.Option(help="Checkpoint for the engines in PyTorch.")] = None,
    mode: Annotated[Mode, typer.Option(help="What the model is asked for.")] = Mode.DIRECT,
    instruction: Annotated[str | None, typer.Option(help="Your own instruction, instead of the mode's.")] = None,
    class_name: Annotated[str | None, typer.Option(help="What to look for, in the mode's own instruction.")] = None,
    normal_look: Annotated[
        str | None, typer.Option(help="Sentence on the object's normal look, for describe-plus.")
    ] = None,
    maps: Annotated[
        Path | None, typer.Option(help="Folder of another program's score maps (NPY, PNG) instead of a model.")
    ] = None,
    threshold: Annotated[float | None, typer.Option(help="Of --maps: the mask is above it [default: 0.5].")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Images of each category, evenly spread.")] = None,
    size: Annotated[
        int | None, typer.Option(min=1, max=8192, help="Score on SIZE x SIZE pixels [default: each image's own].")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for results.json, images.jsonl and pictures.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what --out holds of an interrupted run.")
    ] = False,
    beside: Annotated[
        list[Path] | None, typer.Option(help="Earlier results to show beside these ones; may repeat.")
    ] = None,
    with_paper: Annotated[
        bool, typer.Option("--beside-paper", help="Show the paper's Tables A.4 to A.7 (MVTec-AD) with ours beside.")
    ] = False,
    benchmarks: Annotated[
        bool, typer.Option("--benchmarks", help="DATA is the paper's tree: every test set in DATA/anomaly_seg.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON instead of a table.")] = False,
    jobs: Annotated[int, typer.Option(min=1, max=256, help="Processes, each with a model of its own.")] = 1,
    threads: Annotated[
        int | None, typer.Option(min=1, max=256, help="CPU threads of each [default: the cores by --jobs].")
    ] = None,
) -> None:
    """Score a data set: AP, F1-Max, IoU_ano, IoU_nor, AUROC and PRO per category and their mean, in percent.

    Data without masks are scored by image. A folder of images alone has no figures: its scores go to --out.

    \b
    Examples:
      agvas-eval data/mvtec --bundle bundles/tiny --out results/
      agvas-eval data/mvtec --bundle bundles/tiny --out results/ --resume --jobs 4
      agvas-eval data/mvtec --engine reference --checkpoint checkpoints/tiny --limit 20 --json
      agvas-eval data/wood --engine reference --mode describe-plus --normal-look "The wood has an even grain."
      agvas-eval data/mvtec --maps other/maps --out other/results --beside results/
      agvas-eval data --benchmarks --bundle bundles/7b --out results/ --resume
    """
    request = Request(mode, instruction, class_name, normal_look)
    request.check()
    if maps is None:
        if threshold is not None:
            raise InputError("--threshold goes with --maps; a model brings its own")
        threads = threads or (max(1, usable_cores() // jobs) if jobs > 1 else None)
        source: Source = Model(engine, _model_path(engine, bundle, checkpoint), request, threads)
    else:
        if bundle or checkpoint or engine != "ort" or request != Request():
            raise InputError("can't use --maps beside a model or what it is asked; choose one")
        if threshold is not None and not abs(threshold) <= LARGEST:
            raise InputError(f"--threshold: found {threshold}, expected a finite number that maps can have (float32)")
        source = Maps(maps, threshold)
    if resume and out is None:
        raise InputError("--resume needs --out, the folder of the interrupted run")
    if benchmarks:
        if beside or with_paper:
            raise InputError("--benchmarks goes without --beside, and has the paper's tables by itself")
        datasets = find_benchmarks(data)
        if out is not None:
            make_folder(out)
        results = evaluate_benchmarks(source, datasets, out, limit, size, jobs, resume, threshold)
        print_benchmarks(results, as_json)
        return
    dataset = load_dataset(data)
    others = [reports.read_results(path, dataset.name) for path in beside or []]
    if with_paper:
        check_categories(dataset.name, dataset.categories)
    if out is not None:
        make_folder(out)
    elif all(item.anomalous is None for item in dataset.items):
        raise InputError(
            f"{data}: images alone, of which nothing is known, have no figures: name --out for their scores"
        )
    done = evaluate_dataset(source, dataset, limit, out, size, jobs, resume)
    report = reports.as_report(done.evaluation, dataset.name, done.settings, threshold)
    report["weights"] = done.weights_note
    if with_paper:
        report["paper"] = beside_paper(report)
    if out is not None:
        reports.write_results(out, report, done.evaluation)
        console.note(f"written: {out / 'results.json'}, images.jsonl and the pictures beside it")
    if as_json:
        console.print_json(report)
    else:
        print_tables(done.evaluation, report, others)


def print_benchmarks(results: dict[str, Any], as_json: bool) -> None:
    """Print what `evaluate_benchmarks` found, as JSON or for a person."""
    if as_json:
        console.print_json(results)
        return
    output = console.output()
    output.print(summary_table(results["sets"]))
    _print_paper(results["paper"], *results["sets"].values())
    for name, report in results["sets"].items():
        if unanswered := len(report["no_answers"]):
            console.note(f"{name}: {unanswered} images without an answer (--json lists them)")
    for note in sorted({report["weights"] for report in results["sets"].values()} - {""}):
        print(note)


def print_tables(evaluation: Evaluation, report: dict[str, Any], others: list[tuple[str, dict[str, Any]]]) -> None:
    """Print the results for a person, beside the others in the paper's layout."""
    output = console.output()
    output.print(reports.figure_table(evaluation, report["dataset"]))
    output.print(reports.count_table(evaluation))
    for table in reports.beside_tables(report, others) if others else []:
        output.print(table)
    for name in [name for name, other in others if not reports.comparable(report, other)]:
        console.note(f"* {name}: results of other images (--limit?) or at another --size, not to be compared")
    _print_paper(report.get("paper"), report)
    if report["weights"]:
        print(report["weights"])
    empty = evaluation.mean().empty_truths
    if empty:
        console.note(f"{empty} defective images have an empty ground truth: a mask there counts as IoU 0, none as n/a")
    unanswered = evaluation.no_answers
    for record in unanswered[:10]:
        console.note(f"no answer: {record.category}/{record.name}: {console.one_line(record.reason)[:120]}")
    if len(unanswered) > 10:
        console.note(f"no answer: and {len(unanswered) - 10} more images (--json lists all)")


def _print_paper(beside: dict[str, Any] | None, *ours: dict[str, Any]) -> None:
    if beside is None:
        return
    for table in paper_tables(beside):
        console.output().print(table)
    for note in beside["notes"]:
        console.note(console.one_line(note))
    if any(report["limit"] or report["size"] for report in ours):
        console.note("ours are of some images (--limit) or at another size (--size), the paper's of all test images")


def _model_path(engine: str, bundle: Path | None, checkpoint: Path | None) -> Path | None:
    if bundle and checkpoint:
        raise InputError("can't use both --bundle and --checkpoint; choose one")
    if checkpoint and engine in OF_BUNDLES:
        raise InputError(f"--checkpoint needs --engine reference; for --engine {engine} export a bundle (agvas-export)")
    if bundle and engine not in OF_BUNDLES:
        raise InputError(f"--bundle needs --engine {' or '.join(OF_BUNDLES)}; --engine {engine} takes --checkpoint")
    return bundle or checkpoint


def main() -> None:
    """Console script."""
    console.run(app)
