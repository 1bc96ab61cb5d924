"""agvas-eval: a data set through a bundle or a checkpoint. Only the command line lives here; scoring is in score.py."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from agvas_runtime import __version__, console
from agvas_runtime.datasets import Dataset, load_dataset
from agvas_runtime.engines.registry import OF_BUNDLES, Segments, open_segmenter
from agvas_runtime.errors import InputError
from agvas_runtime.evaluate.pictures import Pictures, file_name, spread
from agvas_runtime.evaluate.score import FIGURES, Evaluation, Row, Scored, score_category
from agvas_runtime.files import make_folder, write_whole
from agvas_runtime.modes import Mode, Request

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def evaluate(
    data: Annotated[Path, typer.Argument(help="Folder in MVTec's layout or with a meta.json; or a meta_<SET>.json.")],
    bundle: Annotated[Path | None, typer.Option(help="Bundle to evaluate [default: the embedded one].")] = None,
    engine: Annotated[
        str, typer.Option(help="ort (a bundle); reference or compiled-decode (a checkpoint, in PyTorch).")
    ] = "ort",
    checkpoint: Annotated[Path | None, typer.Option(help="Checkpoint for the engines in PyTorch.")] = None,
    mode: Annotated[Mode, typer.Option(help="What the model is asked for; ort has direct only.")] = Mode.DIRECT,
    instruction: Annotated[str | None, typer.Option(help="Your own instruction, instead of the mode's.")] = None,
    class_name: Annotated[str | None, typer.Option(help="What to look for, in the mode's own instruction.")] = None,
    normal_look: Annotated[
        str | None, typer.Option(help="Sentence on the object's normal look, for describe-plus.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Images of each category, evenly spread.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for results.json and pictures.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON instead of a table.")] = False,
    threads: Annotated[
        int | None, typer.Option(min=1, max=256, help="CPU threads [default: one for each core].")
    ] = None,
) -> None:
    """Score a data set: AP, F1-Max, IoU_ano and IoU_nor per category and their mean, in percent.

    \b
    Examples:
      agvas-eval data/mvtec --bundle bundles/tiny --out results/
      agvas-eval data/mvtec --engine reference --checkpoint checkpoints/tiny --limit 20 --json
      agvas-eval data/wood --engine reference --mode describe-plus --normal-look "The wood has an even grain."
    """
    request = Request(mode, instruction, class_name, normal_look)
    request.check()
    path = _model_path(engine, bundle, checkpoint)
    dataset = load_dataset(data)
    if out is not None and any(make_folder(out / "pictures").iterdir()):
        raise InputError(f"{out / 'pictures'}: holds an earlier evaluation's pictures; delete it or name another --out")
    segmenter = open_segmenter(engine, path, threads)
    evaluation = evaluate_dataset(segmenter, dataset, limit, out, request)
    report = as_report(evaluation, dataset.name, engine, path, limit, mode)
    report["weights"] = segmenter.weights_note
    if out is not None:
        write_whole(out / "results.json", (json.dumps(console.finite(report), indent=2) + "\n").encode())
        console.note(f"written: {out / 'results.json'} and the pictures beside it")
    if as_json:
        console.print_json(report)
    else:
        console.output().print(as_table(evaluation, dataset.name))
        if segmenter.weights_note:
            print(segmenter.weights_note)
        for image, reason in evaluation.no_answers[:10]:
            console.note(f"no answer: {image}: {console.one_line(reason)[:120]}")
        if len(evaluation.no_answers) > 10:
            console.note(f"no answer: and {len(evaluation.no_answers) - 10} more images (--json lists all)")


def evaluate_dataset(
    segmenter: Segments,
    dataset: Dataset,
    limit: int | None = None,
    out: Path | None = None,
    request: Request = Request(),
) -> Evaluation:
    """Score every category, with pictures below `out` if given. Raises InputError, EngineError."""
    evaluation = Evaluation()
    for category, items in dataset.categories.items():
        chosen = [items[index] for index in spread(len(items), limit or len(items))]
        pictures = Pictures(out / "pictures" / file_name(category), len(chosen)) if out else None

        def on_scored(scored: Scored, pictures: Pictures | None = pictures) -> None:
            evaluation.instruction = scored.instruction
            if scored.outcome == "no answer":
                evaluation.no_answers.append((str(scored.item.image), scored.reason))
            if pictures:
                pictures.add(scored)

        bar = console.progress(chosen, category, len(chosen))
        evaluation.rows.append(score_category(segmenter, category, bar, on_scored, request))
        if pictures:
            pictures.finish()
    return evaluation


def as_report(
    evaluation: Evaluation,
    dataset: str,
    engine: str,
    path: Path | None,
    limit: int | None,
    mode: Mode = Mode.DIRECT,
) -> dict[str, Any]:
    """The results for a machine: figures in percent, undefined ones NaN (null in JSON)."""
    mean = asdict(evaluation.mean())
    del mean["category"]
    return {
        "schema": 1,
        "agvas": __version__,
        "dataset": dataset,
        "engine": engine,
        "model": str(path) if path else "embedded",
        "mode": mode.value,
        "instruction": evaluation.instruction,
        "limit": limit,
        "categories": [asdict(row) for row in evaluation.rows],
        "mean": mean,
        "no_answers": [{"image": image, "reason": reason} for image, reason in evaluation.no_answers],
    }


def as_table(evaluation: Evaluation, dataset: str) -> Table:
    """The results for a person."""
    table = Table(title=f"{dataset}: percent, mean over the categories", title_justify="left")
    table.add_column("category", overflow="fold")
    for head in (
        "AP",
        "F1-Max",
        "IoU_ano",
        "IoU_nor",
        "images",
        "rejected\nnormal",
        "rejected\ndefective",
        "no\nanswer",
    ):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("ms/image", justify="right", no_wrap=True)
    for row in evaluation.rows:
        table.add_row(*_cells(row))
    table.add_section()
    table.add_row(*_cells(evaluation.mean()), style="bold")
    return table


def _cells(row: Row) -> list[str]:
    figures = [_number(getattr(row, name)) for name in FIGURES]
    rejected = f"{row.rejected_normals}/{row.normal}", f"{row.rejected_defectives}/{row.anomalous}"
    return [row.category, *figures, str(row.images), *rejected, str(row.no_answer), _number(row.ms_per_image)]


def _number(value: float) -> str:
    return "n/a" if value != value else f"{value:.1f}"


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
