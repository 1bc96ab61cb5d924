"""`agvas-camera`: the camera's side of an inspection line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from agvas_runtime import console
from agvas_runtime.camera.cli_run import run_cameras
from agvas_runtime.camera.options import InstructionOption, MinAreaOption, MinScoreOption, RecipeNameOption
from agvas_runtime.connection_options import (
    DEFAULT_SERVER,
    CaOption,
    CertOption,
    KeyOption,
    ServerOption,
    TokenOption,
)

app = console.make_app("The camera's side of an inspection line: frames to a server, verdicts back.")


app.command("run")(run_cameras)


@app.command("play")
def play_folder(
    frames: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of images, or one image file.")],
    server: ServerOption = DEFAULT_SERVER,
    fps: Annotated[float, typer.Option(min=0, help="Triggers a second; 0: as fast as answers come.")] = 0.0,
    count: Annotated[int | None, typer.Option(min=1, help="Frames to send; each file once by default.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Send pixels, as a camera does, not encoded files.")] = False,
    camera: Annotated[
        str, typer.Option(help="The camera's id; also chooses the server's recipe of this name.")
    ] = "folder",
    recipe_name: RecipeNameOption = None,
    instruction: InstructionOption = None,
    min_area: MinAreaOption = None,
    min_score: MinScoreOption = None,
    out: Annotated[Path | None, typer.Option(help="Folder for overlay pictures, one a file.")] = None,
    token_file: TokenOption = None,
    ca: CaOption = None,
    cert: CertOption = None,
    key: KeyOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    r"""Play image files to a server as a line camera would. Exits with 0 whatever the verdicts, if there are any.

    \b
    Examples:
      agvas-camera play photos/
      agvas-camera play photos/ --server 127.0.0.1:50051 --fps 10 --count 100 --out overlays
      agvas-camera play photos/ --server line4:50051 --ca ca.pem --token-file line-4.token
    """
    from agvas_runtime.camera.player import Playback
    from agvas_runtime.camera.session import run_playback
    from agvas_runtime.client import Client, ConnectionLostError
    from agvas_runtime.frames import find_images
    from agvas_runtime.server.channel import read_token
    from agvas_runtime.verdict import Recipe

    images = find_images(frames)
    asked: dict[str, Any] = {"min_area_px": min_area, "min_score": min_score}
    recipe = Recipe(**{name: value for name, value in asked.items() if value is not None})
    playback = Playback(images, count or len(images), fps, raw, camera, instruction, recipe, recipe_name)
    token = None if token_file is None else read_token(token_file)
    with Client(server, token=token, ca=ca, cert=cert, key=key) as client:
        client.wait_ready(timeout_s=5)
        shots = run_playback(client, playback, out, as_json=as_json)
    lost = sum(shot.connection_lost for shot in shots)
    if lost:
        raise ConnectionLostError(f"{server}: the connection was lost for {lost} of {len(shots)} frames")
    if (error := shots[-1].error) and not any(shot.reply for shot in shots):
        raise error


def main() -> None:
    """Entry point of `agvas-camera`."""
    console.run(app)


if __name__ == "__main__":
    main()
