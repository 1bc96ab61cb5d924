"""`agvas-runtime segment`: image files through a segmenter into a table or JSON, masks and overlays.

A file that cannot be read costs one line on stderr; the others are processed all the same.
"""

import re
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text as Styled

from agvas_runtime import console, encoding
from agvas_runtime.engines.choice import open_bundle
from agvas_runtime.engines.ort import share_threads
from agvas_runtime.errors import EngineError, InputError
from agvas_runtime.files import check_folder, make_folder, result_names, write_whole
from agvas_runtime.frames import find_images, read_image
from agvas_runtime.maps import Box, binarise
from agvas_runtime.modes import Mode, Request
from agvas_runtime.overlay import draw_overlay
from agvas_runtime.result import Result
from agvas_runtime.segment_tiles import segment_in_tiles
from agvas_runtime.segmenter import Segmenter, Text
from agvas_runtime.tiling import Tiling
from agvas_runtime.verdict import Recipe
from agvas_runtime.writer import Decoding

TOLD = (Mode.DESCRIBE, Mode.DESCRIBE_PLUS, Mode.EXPLAIN, Mode.CONVERSATION)
"""Modes whose answers are worth reading: a single image's is printed as it is written."""
RESULT_NAME = re.compile(r"(.+)_(?:overlay|mask(?:_[0-9]+)?)\.png", re.DOTALL)


@dataclass(frozen=True)
class Task:
    """What to do with every image."""

    bundle: Path | None
    request: Request
    recipe: Recipe
    threads: int | None
    out: Path | None
    """Where masks and overlays go; nowhere where None."""
    engine: str = "ort"
    decoding: Decoding = field(default_factory=Decoding)
    tiling: Tiling | None = None
    """Images are segmented tile by tile where there is one."""


def read_roi(text: str) -> Box:
    """The region of interest in "X0,Y0,X1,Y1"; raises InputError."""
    if not re.fullmatch(r"\s*-?[0-9]{1,9}\s*(,\s*-?[0-9]{1,9}\s*){3}", text, re.ASCII):
        raise InputError(f"--roi: found {console.one_line(text)!r}, expected X0,Y0,X1,Y1 in pixels")
    x0, y0, x1, y1 = map(int, text.split(","))
    return x0, y0, x1, y1


def segment_files(inputs: list[Path], task: Task, *, as_json: bool) -> int:
    """Process all images and print them as a table or JSON; returns the exit code.

    0 when all were processed, 2 when some could not be read, 1 when the engine or the disk failed on some, 130 when it
    was interrupted. A row whose masks could not be written has its verdict and the error. Raises InputError,
    BundleError or EngineError where nothing could be done.
    """
    task.request.check()
    images, failures = _collect(inputs)
    names = result_names(images)
    if task.out is not None:
        _refuse_overwriting(images, names, make_folder(task.out))
        check_folder(task.out)
    told = task.request.mode in TOLD and task.decoding.text and not as_json
    aloud = told and len(images) == 1 and task.tiling is None
    rows: list[dict[str, Any]] = []
    code = 0
    try:
        if images:
            _segment(list(zip(images, names, strict=True)), task, rows, failures, aloud)
    except KeyboardInterrupt:  # what is done is worth seeing
        code = 130
    by_file = {row["file"]: row for row in rows}
    for path, failure in failures:
        text = console.one_line(str(failure))
        name = console.one_line(str(path))
        console.note(f"error: {text if name in text else f'{name}: {text}'}")
        if row := by_file.get(str(path)):
            row["error"] = text
        else:
            rows.append({"file": str(path), "error": text})
        if code != 130:
            code = 2 if isinstance(failure, InputError) else code or 1
    if as_json:
        console.print_json(rows)
    elif any("verdict" in row for row in rows):
        console.output().print(_table(rows))
        for row in rows if told and not aloud else []:
            if "answer" in row:
                print(f"{console.one_line(row['file'])}: {console.one_line(row['answer'])}")
        for row in rows:
            stopped = "stopped by the limit" in row.get("reason", "")
            if row.get("verdict") == "NO_ANSWER" and (stopped or task.request.mode is not Mode.CONVERSATION):
                print(f"{console.one_line(row['file'])}: no answer: {console.one_line(row['reason'])}")
    return code


def _segment(
    images: list[tuple[tuple[Path, Path], str]],
    task: Task,
    rows: list[dict[str, Any]],
    failures: list[tuple[Path, Exception]],
    aloud: bool,
) -> None:
    """Add a row for each of the ((folder, image), name of its results); what fails is added to the failures.

    Answers are printed as they are written where `aloud`.
    """
    share_threads(task.threads)
    segmenter = open_bundle(task.engine, task.bundle, task.threads)
    try:
        segmenter.warm([task.request], decoding=task.decoding)  # so that the first image's time is like the others'
        for (_, path), name in images if aloud else console.progress(images, "segmenting", len(images)):
            try:
                result = _result(segmenter, path, task, aloud)
                rows.append({"file": str(path), **_row(result)})
                _add_masks(rows[-1], result, path, name, task.out)
            except (InputError, EngineError) as error:
                failures.append((path, error))
    finally:
        with suppress(EngineError):  # what went wrong is among the failures already
            segmenter.close()


def _collect(inputs: list[Path]) -> tuple[list[tuple[Path, Path]], list[tuple[Path, Exception]]]:
    """All (folder, image) pairs once each, in order, and the arguments that lead to none."""
    found: dict[Path, tuple[Path, Path]] = {}
    failures: list[tuple[Path, Exception]] = []
    for given in inputs:
        try:
            images = find_images(given)
        except InputError as error:
            failures.append((given, error))
            continue
        folder = given if given.is_dir() else given.parent
        for image in images:
            found.setdefault(image.absolute(), (folder, image))
    return list(found.values()), failures


def _refuse_overwriting(images: list[tuple[Path, Path]], names: list[str], out: Path) -> None:
    """Raise InputError when a result would replace one of the images."""
    stems = {(out / name).parent.resolve() / Path(name).name for name in names}
    for _, path in images:
        for real in (path.resolve(), path.parent.resolve() / path.name):
            result = RESULT_NAME.fullmatch(real.name)
            if result and real.with_name(result[1]) in stems:
                raise InputError(f"{path}: a result would replace this input; choose another --out")


def _result(segmenter: Segmenter, path: Path, task: Task, aloud: bool) -> Result:
    if aloud:
        return _read_aloud(segmenter, path, task)
    if task.tiling is not None:
        return segment_in_tiles(segmenter, path, task.tiling, task.request, task.recipe, task.decoding)
    (result,) = segmenter.segment_batch([path], task.request, task.recipe, decoding=task.decoding)
    return result


def _add_masks(row: dict[str, Any], result: Result, path: Path, name: str, out: Path | None) -> None:
    """Add what an image's row says of its masks; they and the overlay are on disk when this returns."""
    masks = [binarise(each, result.threshold) for each in result.group_maps]
    row["groups"] = [{"defect_area_px": int(mask.sum())} for mask in masks]
    if out is not None:
        mask_path, overlay_path = out / f"{name}_mask.png", out / f"{name}_overlay.png"
        text = f"{result.defect_area_px} px  {result.confidence:.2f}"
        overlay = draw_overlay(read_image(path), result.mask, result.regions, result.verdict, text)
        write_whole(mask_path, encoding.mask_to_png(result.mask))
        write_whole(overlay_path, encoding.png(overlay))
        row |= {"mask": str(mask_path), "overlay": str(overlay_path)}
        for number, (mask, group) in enumerate(zip(masks, row["groups"], strict=True), 1):
            place = out / f"{name}_mask_{number}.png"
            write_whole(place, encoding.mask_to_png(mask))
            group["mask"] = str(place)


def _read_aloud(segmenter: Segmenter, path: Path, task: Task) -> Result:
    """Segment an image and print its answer as it is written."""
    begun = False
    try:
        for event in segmenter.stream(path, task.request, task.recipe, decoding=task.decoding):
            if isinstance(event, Text):
                begun = True
                print("".join(c if c.isprintable() or c == "\n" else " " for c in event.text), end="", flush=True)
            elif isinstance(event, Result):
                result = event
    finally:
        if begun:
            print(flush=True)
    if result.rechecked:
        print(f"read again: {console.one_line(result.answer)}")
    return result


def _row(result: Result) -> dict[str, Any]:
    height, width = result.size
    return {
        "width": width,
        "height": height,
        "verdict": result.verdict.value,
        "reason": result.reason,
        "instruction": result.instruction,
        "answer": result.answer,
        "answer_kind": result.answer_kind.value,
        "confidence": result.confidence,
        "tokens": result.tokens,
        "proved_tokens": result.proved_tokens,
        "one_pass": result.one_pass,
        "verified": result.verified,
        "rechecked": result.rechecked,
        "scores": {**asdict(result.scores), "normality": result.scores.normality},
        "defect_area_px": result.defect_area_px,
        "regions": [asdict(region) for region in result.regions],
        "timings_ms": result.timings_ms,
    }


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, header_style="bold")
    table.add_column("file", overflow="fold")
    for name in ("size", "verdict", "area px", "area %", "regions", "confidence", "ms"):
        table.add_column(name, justify="left" if name == "verdict" else "right", no_wrap=True)
    colours = {"PASS": "green", "REJECT": "red", "NO_ANSWER": "yellow"}
    for row in rows:
        if "verdict" not in row:
            continue
        table.add_row(
            console.one_line(row["file"]),
            f"{row['width']}x{row['height']}",
            Styled(row["verdict"], colours[row["verdict"]]),
            str(row["defect_area_px"]),
            f"{100 * row['defect_area_px'] / (row['width'] * row['height']):.2f}",
            str(len(row["regions"])),
            f"{row['confidence']:.3f}",
            f"{row['timings_ms']['total']:.1f}",
        )
    return table
