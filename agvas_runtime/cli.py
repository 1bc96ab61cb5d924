"""`agvas-runtime`: segment images without a server, serve a bundle, show what a bundle holds.

Heavy modules are imported by the command that needs them, so that a server is ready soon after its start.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeVar

import typer
from pydantic import BaseModel, ValidationError

from agvas_runtime import console
from agvas_runtime.bundle import CARD, Bundle, default_bundle_path
from agvas_runtime.cli_build import build
from agvas_runtime.cli_calibrate import calibrate
from agvas_runtime.cli_doctor import doctor
from agvas_runtime.cli_roofline import roofline
from agvas_runtime.cli_serve import serve
from agvas_runtime.cli_swap import swap
from agvas_runtime.cli_token import token
from agvas_runtime.errors import InputError
from agvas_runtime.modes import Mode, Request

Settings = TypeVar("Settings", bound=BaseModel)

app = console.make_app("Runs a bundle: on image files, as a gRPC server, or just shows what is in it.")

BundleOption = Annotated[Path | None, typer.Option(help="Bundle folder; the embedded tiny bundle by default.")]
EngineOption = Annotated[
    str,
    typer.Option(
        help="ort, ort-cuda, tensorrt; auto: TensorRT where the bundle was made for it and it can be had, or ort."
    ),
]
ThreadsOption = Annotated[int | None, typer.Option(min=1, max=256, help="Threads of the engine; all cores by default.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


@app.command()
def segment(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files, or folders of images.")],
    bundle: BundleOption = None,
    mode: Annotated[Mode, typer.Option(help="What the model is asked for.")] = Mode.DIRECT,
    instruction: Annotated[str | None, typer.Option(help="Your own instruction or question; the mode's own.")] = None,
    class_name: Annotated[str | None, typer.Option(help="What to look for, in the mode's own instruction.")] = None,
    normal_look: Annotated[
        str | None, typer.Option(help="Sentence on the object's normal look, for describe-plus.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for <name>_mask.png and <name>_overlay.png.")] = None,
    as_json: JsonOption = False,
    min_area: Annotated[int, typer.Option(min=1, help="Smallest region that counts as a defect, in pixels.")] = 1,
    min_score: Annotated[float, typer.Option(min=0, max=1, help="Lowest mean score of such a region.")] = 0.0,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Pixels above it belong to the mask; the bundle's own.")
    ] = None,
    alpha: Annotated[
        float | None, typer.Option(min=0, max=1, help="Weight of [SEG]'s map beside [ANO]'s; the bundle's own.")
    ] = None,
    roi: Annotated[
        str | None, typer.Option(metavar="X0,Y0,X1,Y1", help="Nothing outside, in pixels, belongs to map or mask.")
    ] = None,
    no_text: Annotated[bool, typer.Option("--no-text", help="End the answer behind its first anchors.")] = False,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Most tokens of an answer; the mode's limit.")] = None,
    temperature: Annotated[float, typer.Option(min=0, max=10, help="Above 0 tokens are drawn: no inspection.")] = 0.0,
    top_p: Annotated[float, typer.Option(max=1, help="Draw from the likeliest with this probability.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the drawing.")] = 0,
    strict_below: Annotated[
        float | None, typer.Option(min=0, help="Read again, token by token, a proved answer of a smaller margin.")
    ] = None,
    tile: Annotated[
        int | None, typer.Option(min=16, max=65536, help="Segment in tiles of this side, in pixels: for large images.")
    ] = None,
    overlap: Annotated[
        int | None, typer.Option(min=0, help="Pixels that tiles share; 64, or a quarter of a small tile.")
    ] = None,
    engine: EngineOption = "auto",
    threads: ThreadsOption = None,
) -> int:
    r"""Segment the anomalies of images, without a server. Exits with 0 whatever the verdicts.

    In describe, describe-plus, explain and conversation mode the answer is printed: a single image's as it is written.
    Several groups of anchors give several masks, <name>_mask_1.png and so on, beside the one that covers them all.

    \b
    Examples:
      agvas-runtime segment part.png
      agvas-runtime segment photos/ --out results --min-area 25
      agvas-runtime segment part.png --threshold 0.3 --roi 40,20,600,440
      agvas-runtime segment part.png --instruction "Please segment the scratches in this image." --json
      agvas-runtime segment sheet.tif --tile 512 --overlap 64 --out results
      agvas-runtime segment part.png --mode explain
      agvas-runtime segment part.png --mode describe-plus --normal-look "A smooth grey casting." --out results
      agvas-runtime segment part.png --mode conversation --instruction "What is on the surface?"
    """
    from agvas_runtime.segment_files import Task, read_roi, segment_files
    from agvas_runtime.tiling import Tiling
    from agvas_runtime.verdict import Recipe
    from agvas_runtime.writer import Decoding

    recipe = _checked(
        Recipe,
        min_area_px=min_area,
        min_score=min_score,
        threshold=threshold,
        alpha=alpha,
        roi=None if roi is None else read_roi(roi),
    )
    decoding = _checked(
        Decoding,
        text=not no_text,
        max_new_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        strict_below=strict_below,
    )
    request = Request(mode, instruction, class_name, normal_look)
    if tile is None and overlap is not None:
        raise InputError(f"--overlap: found {overlap} without --tile, expected both")
    try:
        tiling = None if tile is None else Tiling.of(tile, tile, overlap)
    except InputError as error:
        raise InputError(f"--{error}") from None
    return segment_files(images, Task(bundle, request, recipe, threads, out, engine, decoding, tiling), as_json=as_json)


@app.command()
def info(
    bundle: Annotated[Path | None, typer.Argument(help="Bundle folder; the embedded tiny bundle by default.")] = None,
    card: Annotated[bool, typer.Option("--card", help="Print the bundle's model card instead.")] = False,
    as_json: JsonOption = False,
    verify_full: Annotated[bool, typer.Option(help="Hash every file again, remembered or not.")] = False,
) -> None:
    r"""Verify a bundle and show what it holds.

    \b
    Examples:
      agvas-runtime info
      agvas-runtime info bundles/tiny --json
      agvas-runtime info bundles/tiny --card
    """
    from agvas_runtime.bundle_info import print_bundle, summary

    if card and as_json:
        raise InputError("can't use both --card and --json; choose one")
    opened = Bundle.open(bundle or default_bundle_path(), verify_full=verify_full)
    if card:
        print(opened.path(CARD).read_text("utf-8"), end="")
    elif as_json:
        console.print_json(summary(opened))
    else:
        print_bundle(opened)


def _checked(kind: type[Settings], **values: object) -> Settings:
    """Settings from options; raises InputError naming the option that is wrong."""
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors()[0]
        field, rule = str(first["loc"][0]), first["msg"][:1].lower() + first["msg"][1:]
        option = {"min_area_px": "min-area", "max_new_tokens": "max-tokens"}.get(field, field.replace("_", "-"))
        raise InputError(f"--{option}: found {first['input']}, {rule}") from None


app.command()(serve)
app.command()(swap)
app.command()(token)
app.command()(doctor)
app.command()(build)
app.command()(roofline)
app.command()(calibrate)


def main() -> None:
    """Entry point of `agvas-runtime`."""
    console.run(app)


if __name__ == "__main__":
    main()
