"""What a frame takes by its size and pixel format, through shared memory and through gRPC: `make proof-frames`.

One server with the embedded bundle, one client, one frame at a time; sizes and formats take turns in an order drawn by
lot. Writes benchmarks/full/<date>-<commit>-frames.json. Three minutes on two idle cores.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
from PIL import Image

from agvas_runtime import console
from agvas_runtime.bench.machine import describe_machine, git_commit
from agvas_runtime.client import Client
from agvas_runtime.demo.server_process import server_process
from agvas_runtime.local_client import LocalClient
from agvas_runtime.wire import RawFrame

REPOSITORY = Path(__file__).resolve().parents[1]
FRAME = REPOSITORY / "agvas_runtime" / "demo" / "frames" / "00_wood_scale.jpg"
SIZES = ((592, 592), (1024, 1280), (2048, 2448), (3000, 4096))
FORMATS = ("MONO8", "MONO12P", "BAYER_RG8", "RGB8")
STAGES = ("decode", "preprocess", "encoders", "postprocess", "total", "server")
"""Of a reply's timings; `total` is the engine's with decoding, `server` everything but the way."""
Ask = tuple[tuple[int, int], str, str]
"""Size, format, way."""


def sensor_frame(size: tuple[int, int], pixel_format: str) -> RawFrame:
    """The picture as a sensor of this size and format gives it."""
    height, width = size
    with Image.open(FRAME) as image:
        rgb = np.asarray(image.convert("RGB").resize((width, height)))
    pixels = rgb if pixel_format == "RGB8" else rgb[:, :, 1].copy()
    if pixel_format == "BAYER_RG8":
        pixels[::2, ::2], pixels[1::2, 1::2] = rgb[::2, ::2, 0], rgb[1::2, 1::2, 2]
    if pixel_format == "MONO12P":
        first, second = pixels[:, ::2], pixels[:, 1::2]  # their upper 8 of 12 bits; the lower ones are 0
        pixels = np.stack([first << 4, first >> 4, second], axis=2)
    return RawFrame(pixels.tobytes(), width, height, pixel_format)


def measure(count: int) -> dict[Ask, list[dict[str, float]]]:
    """The times of so many frames of every kind; one of each goes ahead and is not counted."""
    frames = {(size, name): sensor_frame(size, name) for size in SIZES for name in FORMATS}
    found: dict[Ask, list[dict[str, float]]] = defaultdict(list)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "local"
        with (
            server_process(["--local", str(path)]) as server,
            LocalClient(path) as local,
            Client(f"127.0.0.1:{server.port}") as client,
        ):
            asks = [(*key, way) for key in frames for way in ("shared memory", "gRPC")]
            for turn in console.progress(range(count + 1), "frames", count + 1):
                random.shuffle(asks)
                for size, name, way in asks:
                    began = perf_counter()
                    reply = (local if way == "shared memory" else client).segment(frames[size, name])
                    whole_ms = (perf_counter() - began) * 1e3
                    if turn:
                        found[size, name, way].append({"whole": whole_ms, **reply.timings_ms})
    return found


def described(found: dict[Ask, list[dict[str, float]]]) -> list[dict[str, Any]]:
    """A row for each kind: what the client waited, and what stages took in the median."""
    rows = []
    for (size, name, way), times in sorted(found.items()):
        whole = [each["whole"] for each in times]
        rows.append(
            {
                "height": size[0],
                "width": size[1],
                "pixel_format": name,
                "way": way,
                "p50_ms": float(np.median(whole)),
                "p90_ms": float(np.percentile(whole, 90)),
                "stages_ms_p50": {stage: float(np.median([each[stage] for each in times])) for stage in STAGES},
            }
        )
    return rows


def main() -> None:
    """Start the server, measure, write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=20, help="of every size and format, each way")
    parser.add_argument("--json", action="store_true", help="print the report instead of the table")
    parser.add_argument("--out", type=Path, help="by default benchmarks/full/<date>-<commit>-frames.json")
    arguments = parser.parse_args()
    commit = (git_commit(REPOSITORY) or "unknown")[:12]
    out = arguments.out or REPOSITORY / "benchmarks" / "full" / f"{date.today().isoformat()}-{commit}-frames.json"
    rows = described(measure(arguments.frames))
    report = {"machine": describe_machine(), "commit": commit, "frames": arguments.frames, "rows": rows}
    out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if arguments.json:
        print(json.dumps(report))
        return
    print(f"{'':40}{'p50 ms':>8}{'p90':>8}" + "".join(f"{stage:>13}" for stage in STAGES))
    for row in rows:
        kind = f"{row['width']} x {row['height']} {row['pixel_format']}, {row['way']}"
        stages = "".join(f"{ms:13.1f}" for ms in row["stages_ms_p50"].values())
        print(f"{kind:40}{row['p50_ms']:8.1f}{row['p90_ms']:8.1f}{stages}")
    print(f"wrote {out}")


if __name__ == "__main__":
    main()
