"""agvas-eval: the command line. What is done is in run.py, what is said of it in report.py."""

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from agvas_runtime import console
from agvas_runtime.datasets import load_dataset
from agvas_runtime.engines.registry import OF_BUNDLES
from agvas_runtime.errors import InputError
from agvas_runtime.evaluate import report as reports
from agvas_runtime.evaluate.rows import Evaluation
from agvas_runtime.evaluate.run import evaluate_dataset
from agvas_runtime.evaluate.sources import Maps, Model, Source
from agvas_runtime.files import make_folder, write_whole
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
    """
    request = Request(mode, instruction, class_name, normal_look)
    request.check()
    if maps is None:
        if threshold is not None:
            raise InputError("--threshold goes with --maps; a model brings its own")
        threads = threads or (max(1, _cores() // jobs) if jobs > 1 else None)
        source: Source = Model(engine, _model_path(engine, bundle, checkpoint), request, threads)
    else:
        if bundle or checkpoint or engine != "ort" or request != Request():
            raise InputError("can't use --maps beside a model or what it is asked; choose one")
        if threshold is not None and not abs(threshold) <= LARGEST:
            raise InputError(f"--threshold: found {threshold}, expected a finite number that maps can have (float32)")
        source = Maps(maps, threshold)
    if resume and out is None:
        raise InputError("--resume needs --out, the folder of the interrupted run")
    dataset = load_dataset(data)
    others = [reports.read_results(path, dataset.name) for path in beside or []]
    if out is not None:
        make_folder(out)
    elif all(item.anomalous is None for item in dataset.items):
        raise InputError(
            f"{data}: images alone, of which nothing is known, have no figures: name --out for their scores"
        )
    done = evaluate_dataset(source, dataset, limit, out, size, jobs, resume)
    report = reports.as_report(done.evaluation, dataset.name, done.settings, threshold)
    report["weights"] = done.weights_note
    if out is not None:
        write_results(out, report, done.evaluation)
        console.note(f"written: {out / 'results.json'}, images.jsonl and the pictures beside it")
    if as_json:
        console.print_json(report)
    else:
        print_tables(done.evaluation, report, others)


def write_results(out: Path, report: dict[str, Any], evaluation: Evaluation) -> None:
    """Write results.json and images.jsonl (a line an image), and drop what was kept of the unfinished evaluation."""
    lines = [json.dumps(console.finite(asdict(record)), ensure_ascii=False) for record in evaluation.records]
    write_whole(out / "images.jsonl", "".join(f"{line}\n" for line in lines).encode())
    write_whole(out / "results.json", (json.dumps(console.finite(report), indent=2) + "\n").encode())
    shutil.rmtree(out / "unfinished", ignore_errors=True)


def print_tables(evaluation: Evaluation, report: dict[str, Any], others: list[tuple[str, dict[str, Any]]]) -> None:
    """Print the results for a person, beside the others in the paper's layout."""
    output = console.output()
    output.print(reports.figure_table(evaluation, report["dataset"]))
    output.print(reports.count_table(evaluation))
    for table in reports.beside_tables(report, others) if others else []:
        output.print(table)
    for name in [name for name, other in others if not reports.comparable(report, other)]:
        console.note(f"* {name}: results of other images (--limit?) or at another --size, not to be compared")
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


def _model_path(engine: str, bundle: Path | None, checkpoint: Path | None) -> Path | None:
    if bundle and checkpoint:
        raise InputError("can't use both --bundle and --checkpoint; choose one")
    if checkpoint and engine in OF_BUNDLES:
        raise InputError(f"--checkpoint needs --engine reference; for --engine {engine} export a bundle (agvas-export)")
    if bundle and engine not in OF_BUNDLES:
        raise InputError(f"--bundle needs --engine {' or '.join(OF_BUNDLES)}; --engine {engine} takes --checkpoint")
    return bundle or checkpoint


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main() -> None:
    """Console script."""
    console.run(app)
