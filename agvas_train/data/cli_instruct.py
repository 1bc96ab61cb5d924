"""`agvas-data instruct`: Anomaly-Instruct records of a data set, written by a vision model (paper, A.1)."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agvas_runtime import console
from agvas_runtime.errors import EngineError, InputError

if TYPE_CHECKING:
    from agvas_train.data.instruct.endpoint import EndpointConfig
    from agvas_train.data.instruct.pipeline import Outcome
    from agvas_train.data.instruct.tasks import Task

SHOWN = 10
"""Images of a dry run without --limit."""


class Who(str, Enum):
    """Who writes the records."""

    ENDPOINT = "endpoint"
    SYNTHETIC = "synthetic"


def instruct(
    root: Annotated[Path, typer.Argument(help="Data set: a folder with meta.json, or in MVTec's layout.")],
    out: Annotated[Path, typer.Option(help="Folder for records.jsonl and aside.jsonl; a run goes on where one ended.")],
    endpoint: Annotated[str | None, typer.Option(metavar="URL", help="Such as http://127.0.0.1:8000/v1.")] = None,
    model: Annotated[str | None, typer.Option(help="The vision model's name at the endpoint.")] = None,
    api_key_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="Environment variable that holds the endpoint's key.")
    ] = None,
    annotator: Annotated[Who, typer.Option(help="synthetic: the captions of agvas-data synth.")] = Who.ENDPOINT,
    concurrency: Annotated[int, typer.Option(min=1, max=1024, help="Requests at a time.")] = 8,
    rate: Annotated[float | None, typer.Option(min=0.001, help="Most requests a minute.")] = None,
    retries: Annotated[int, typer.Option(min=0, help="Further tries of a request that failed.")] = 5,
    backoff: Annotated[float, typer.Option(min=0, help="Seconds before the first of them; twice as long each.")] = 1.0,
    timeout: Annotated[float, typer.Option(min=0.1, max=86_400, help="Seconds for a reply.")] = 120.0,
    max_tokens: Annotated[int, typer.Option(min=0, help="Of an answer; 0: the endpoint's own limit.")] = 1024,
    temperature: Annotated[float | None, typer.Option(min=0, max=2, help="The endpoint's own by default.")] = None,
    price_in: Annotated[float, typer.Option(min=0, help="Price of a million tokens asked.")] = 0.0,
    price_out: Annotated[float, typer.Option(min=0, help="Price of a million tokens answered.")] = 0.0,
    max_side: Annotated[int, typer.Option(min=64, help="Longest side of the pictures sent, in pixels.")] = 1024,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many images in this run.")] = None,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Have workers of a Ray cluster ask: HOST:PORT, auto, or local."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--ray-workers", min=1, help="How many, each with --concurrency [default: one a machine]."),
    ] = None,
    shard: Annotated[str, typer.Option(metavar="I/N", help="Only the I-th of N parts, for N machines.")] = "1/1",
    defects_only: Annotated[bool, typer.Option("--defects-only", help="No records of normal images.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only write what would be sent, to look at.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    r"""Have a vision model describe a data set's defects as Anomaly-Instruct records.

    \b
    Example: agvas-data instruct mvtec --out records --endpoint http://127.0.0.1:8000/v1 --model Intern-S1
    """
    from agvas_train.data.instruct.annotate import open_annotator
    from agvas_train.data.instruct.gallery import NormalImages
    from agvas_train.data.instruct.ledger import Ledger
    from agvas_train.data.instruct.pipeline import annotated, run
    from agvas_train.data.instruct.tasks import folder_of, make_plan

    if workers is not None and ray is None:
        raise InputError("--ray-workers goes with --ray")
    root = root.absolute() if ray else root  # workers have a working directory of their own
    plan = make_plan(root, _shard(shard), defects_only)
    if plan.unusable:
        name, reason = next(iter(plan.unusable.items()))
        console.note(f"left out: {len(plan.unusable)} images, such as {name}: {reason}")
    normals = NormalImages(plan.normals)
    if dry_run:
        from agvas_train.data.instruct.preview import write_preview

        shown = plan.tasks[: limit or SHOWN]
        write_preview(out, shown, normals, max_side)
        _report({"out": str(out), "shown": len(shown)}, f"{out}: {len(shown)} images as they are sent", as_json)
        return
    if annotator is Who.SYNTHETIC and (endpoint or model or api_key_env):
        raise InputError("--annotator synthetic asks nobody; leave out --endpoint, --model and --api-key-env")
    config = None
    if annotator is Who.ENDPOINT:
        config = _config(endpoint, model, api_key_env, timeout, retries, backoff, max_tokens, temperature)
    who = open_annotator(config, root, rate, max_side)
    threads = concurrency
    annotate: Callable[[Task], Outcome] = partial(annotated, normals=normals, annotator=who)
    with Ledger(out) as ledger, ExitStack() as stack:
        for dataset, folder in dict.fromkeys((task.dataset, folder_of(task.item)) for task in plan.tasks):
            ledger.claim(dataset, folder)
        known = ledger.done | ledger.put_aside
        left = [task for task in plan.tasks if task.key not in known]
        if ray is not None and left:
            from agvas_train.data.instruct.ray_workers import Job, ray_workers

            job = Job(root, plan.normals, config, rate, max_side, concurrency)
            annotate, threads = stack.enter_context(ray_workers(ray, workers, job))
        counts = run(left[:limit], annotate, ledger, threads)
    summary = _summary(out, plan.tasks, len(left), counts, (price_in, price_out))
    summary["left_out"] = len(plan.unusable)
    _report(summary, _words(summary), as_json)
    if counts["failed"]:
        raise EngineError(f"{counts['failed']} images got no answer; the same command asks about them again")


def _shard(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise InputError(f"--shard: found {text!r}, expected I/N with 1 <= I <= N, such as 2/4")
    return int(part), int(parts)


def _config(
    endpoint: str | None,
    model: str | None,
    key_name: str | None,
    timeout: float,
    retries: int,
    backoff: float,
    max_tokens: int,
    temperature: float | None,
) -> EndpointConfig:
    from agvas_train.data.instruct.endpoint import EndpointConfig

    if not endpoint or not model:
        raise InputError("nobody to ask: give --endpoint and --model, or --annotator synthetic")
    key = os.environ.get(key_name, "").strip() if key_name else None
    if key == "":
        raise InputError(f"--api-key-env: the environment variable {key_name} is not set")
    return EndpointConfig(endpoint, model, key, timeout, retries, backoff, max_tokens, temperature)


def _summary(
    out: Path, tasks: list[Task], asked_for: int, counts: Counter[str], prices: tuple[float, float]
) -> dict[str, Any]:
    """Figures of this run, and what stands beside them."""
    cost = (counts["tokens_in"] * prices[0] + counts["tokens_out"] * prices[1]) / 1e6
    remaining = asked_for - counts["records"] - counts["aside"]
    return {"out": str(out), "images": len(tasks), **counts, "remaining": remaining, "cost": cost}


def _words(summary: dict[str, Any]) -> str:
    words = (
        "{out}: {records} records, {aside} set aside, {failed} without an answer; {remaining} of {images} remain\n"
        "{asks} answers, {tokens_in} tokens in, {tokens_out} out"
    ).format(**summary)
    if summary["cost"]:
        words += f", cost {summary['cost']:.4f}"
    return words + (f"; {summary['uncounted']} answers came without token counts" if summary["uncounted"] else "")


def _report(document: dict[str, Any], words: str, as_json: bool) -> None:
    print(json.dumps(document, indent=2) if as_json else words)
