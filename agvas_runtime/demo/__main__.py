"""`python -m agvas_runtime.demo`: starts the server with the embedded bundle, plays frames to it, stops it again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agvas_runtime import console
from agvas_runtime.camera.player import Playback
from agvas_runtime.camera.session import run_playback
from agvas_runtime.client import Client, ConnectionLostError
from agvas_runtime.demo.server_process import server_process
from agvas_runtime.frames import find_images

OWN_FRAMES = Path(__file__).parent / "frames"
LEAST_FRAMES = 60
"""Short folders are repeated until there are this many, so that the percentiles mean something."""

app = console.make_app("Starts a server with the embedded bundle, plays frames to it as a line camera would, stops it.")


@app.command()
def demo(
    frames: Annotated[Path | None, typer.Option(help="Folder of images; a few of our own by default.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the overlay pictures.")] = Path("demo-out"),
    fps: Annotated[float, typer.Option(min=0, help="Triggers a second; 0: as fast as answers come.")] = 10.0,
    count: Annotated[int | None, typer.Option(min=1, help="Frames to send.")] = None,
) -> None:
    r"""Start a server, play frames to it, print a live table, write overlay pictures, stop the server.

    \b
    Examples:
      python -m agvas_runtime.demo
      python -m agvas_runtime.demo --frames photos/ --out overlays
    """
    images = find_images(frames or OWN_FRAMES)
    with server_process() as server, Client(f"127.0.0.1:{server.port}") as client:
        client.wait_ready()
        console.note(f"server: {server.model} on 127.0.0.1:{server.port}, ready {server.start_s:.1f} s after its start")
        playback = Playback(images, count or max(LEAST_FRAMES, len(images)), fps, camera_id="demo")
        shots = run_playback(client, playback, out, as_json=False)
    console.note(f"overlays: {out}; server stopped")
    if lost := sum(shot.connection_lost for shot in shots):
        raise ConnectionLostError(f"the connection to the server was lost for {lost} of {len(shots)} frames")


if __name__ == "__main__":
    console.run(app)
