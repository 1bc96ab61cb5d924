"""`agvas-runtime`: segment images without a server, serve a bundle, show what a bundle holds.

Heavy modules are imported by the command that needs them, so that a server is ready soon after its start.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agvas_runtime import console
from agvas_runtime.bundle import CARD, Bundle, default_bundle_path
from agvas_runtime.cli_build import build
from agvas_runtime.server.channel import DEFAULT_MESSAGE_MB

if TYPE_CHECKING:
    from agvas_runtime.server.serve import InspectionServer

app = console.make_app("Runs a bundle: on image files, as a gRPC server, or just shows what is in it.")

BundleOption = Annotated[Path | None, typer.Option(help="Bundle folder; the embedded tiny bundle by default.")]
EngineOption = Annotated[
    str, typer.Option(help="ort, tensorrt, or auto: TensorRT where the bundle was made for it and it can be had.")
]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="Threads of the engine; all cores by default.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


@app.command()
def segment(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files, or folders of images.")],
    bundle: BundleOption = None,
    instruction: Annotated[str | None, typer.Option(help="What to look for; the bundle's default sentence.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for <name>_mask.png and <name>_overlay.png.")] = None,
    as_json: JsonOption = False,
    min_area: Annotated[int, typer.Option(min=1, help="Smallest region that counts as a defect, in pixels.")] = 1,
    min_score: Annotated[float, typer.Option(min=0, max=1, help="Lowest mean score of such a region.")] = 0.0,
    engine: EngineOption = "auto",
    threads: ThreadsOption = None,
) -> int:
    r"""Segment the anomalies of images, without a server. Exits with 0 whatever the verdicts.

    \b
    Examples:
      agvas-runtime segment part.png
      agvas-runtime segment photos/ --out results --min-area 25
      agvas-runtime segment part.png --instruction "Please segment the scratches in this image." --json
    """
    from agvas_runtime.segment_files import Task, segment_files
    from agvas_runtime.verdict import Recipe

    recipe = Recipe(min_area_px=min_area, min_score=min_score)
    return segment_files(images, Task(bundle, instruction, recipe, threads, out, engine), as_json=as_json)


@app.command()
def serve(
    bundle: BundleOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on. There is no encryption and no login.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port; 0 takes any free one.")] = 50051,
    engine: EngineOption = "auto",
    threads: ThreadsOption = None,
    max_message_mb: Annotated[int, typer.Option(min=1, max=2047, help="Largest request.")] = DEFAULT_MESSAGE_MB,
    json_line: Annotated[bool, typer.Option("--json", help="Report readiness as one JSON line on stdout.")] = False,
) -> None:
    r"""Serve a bundle over gRPC until SIGINT or SIGTERM.

    \b
    Examples:
      agvas-runtime serve
      agvas-runtime serve --bundle bundles/tiny --port 0 --json
    """
    from agvas_runtime.server.serve import ServerConfig, serve

    def ready(server: InspectionServer) -> None:
        if json_line:
            event = {"event": "ready", "host": server.host, "port": server.port, "pid": os.getpid()}
            event |= {"model": server.model.name, "bundle_sha256": server.model.bundle_sha256}
            print(json.dumps(event), flush=True)
        else:
            console.note(f"ready: {server.model.name} on {server.host}:{server.port}")

    serve(ServerConfig(bundle, host, port, threads, max_message_mb, engine), ready)


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

    opened = Bundle.open(bundle or default_bundle_path(), verify_full=verify_full)
    if card:
        print(opened.path(CARD).read_text("utf-8"), end="")
    elif as_json:
        console.print_json(summary(opened))
    else:
        print_bundle(opened)


app.command()(build)


def main() -> None:
    """Entry point of `agvas-runtime`."""
    console.run(app)


if __name__ == "__main__":
    main()
