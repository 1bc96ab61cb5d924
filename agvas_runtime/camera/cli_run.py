"""`agvas-camera run`: cameras at a gate, for as long as the line runs."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from agvas_runtime.camera.options import InstructionOption, MinAreaOption, MinScoreOption, RecipeNameOption
from agvas_runtime.connection_options import (
    DEFAULT_SERVER,
    CaOption,
    CertOption,
    KeyOption,
    ServerOption,
    TokenOption,
)
from agvas_runtime.errors import InputError

LARGEST_FRAME_MB, KEEP = 64, 1000


class OnNoAnswer(str, Enum):
    """What the gate does with a part without a result."""

    REJECT = "reject"
    PASS = "pass"
    STOP = "stop"


class QueueChoice(str, Enum):
    """What happens where parts come faster than answers."""

    LATEST = "latest"
    BLOCK = "block"


def run_cameras(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="[ID=]SOURCE...",
            help="gige:ID, gentl:FILE.cti[#ID], pylon:[SERIAL], rtsp://..., a folder, an image or a video file.",
        ),
    ],
    server: ServerOption = DEFAULT_SERVER,
    local: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Socket of a server on this machine, instead of --server.")
    ] = None,
    largest_frame_mb: Annotated[
        int, typer.Option(min=1, max=4096, help="With --local: the largest frame, in MiB; others are invalid.")
    ] = LARGEST_FRAME_MB,
    deadline_ms: Annotated[
        float, typer.Option(min=1, help="From a part's capture to its decision, whatever the server does.")
    ] = 1000.0,
    on_no_answer: Annotated[
        OnNoAnswer | None,
        typer.Option(help="What the gate does with a part without a result; reject. Goes before the server's recipe."),
    ] = None,
    policy: Annotated[
        QueueChoice, typer.Option(help="Parts faster than answers: the newest one counts, or the camera waits.")
    ] = QueueChoice.LATEST,
    trigger: Annotated[
        str, typer.Option(help="free, software (at --fps), or the camera's input of a hardware trigger: Line1.")
    ] = "free",
    fps: Annotated[
        float | None,
        typer.Option(min=0, help="Of folders (10), video files (their own) and software triggers (1); 0: no pause."),
    ] = None,
    loop: Annotated[bool, typer.Option("--loop", help="Folders and video files begin anew at their end.")] = False,
    count: Annotated[int | None, typer.Option(min=1, help="Parts of each camera; endless by default.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A GenICam feature; may be given often.")
    ] = None,
    recipe_name: RecipeNameOption = None,
    instruction: InstructionOption = None,
    min_area: MinAreaOption = None,
    min_score: MinScoreOption = None,
    rejects: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for pictures of rejected parts.")] = None,
    keep: Annotated[int, typer.Option(min=1, help="So many pictures stay in it, the newest.")] = KEEP,
    on_reject: Annotated[
        str | None,
        typer.Option(metavar="CMD", help="Run for every part that is not passed, without a shell; facts in AGVAS_*."),
    ] = None,
    jsonl: Annotated[Path | None, typer.Option(metavar="FILE", help="Append every event to it, as JSON lines.")] = None,
    token_file: TokenOption = None,
    ca: CaOption = None,
    cert: CertOption = None,
    key: KeyOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines on stdout instead of a table.")] = False,
) -> None:
    r"""Inspect what cameras see, for as long as the line runs; every part gets one decision in time.

    A camera or a server that is gone is tried again. Until then, and wherever no answer comes before --deadline-ms,
    --on-no-answer decides. Ends with 0 whatever was decided, at the end of its sources, at --count, or by SIGINT or
    SIGTERM.

    \b
    Examples:
      agvas-camera run gige:GV01 --on-no-answer stop --rejects rejects --json
      agvas-camera run left=gige:192.168.7.11 right=gige:192.168.7.12 --trigger Line1 --set ExposureTime=500
      agvas-camera run gentl:producer.cti#SN123 --on-reject './eject --line 4' --jsonl line-4.jsonl
      agvas-camera run pylon: --local /run/agvas/local.sock
      agvas-camera run photos/ --fps 4 --loop --server line4:50051 --ca ca.pem --token-file line-4.token
    """
    from agvas_runtime.asked import Asked
    from agvas_runtime.camera.addresses import open_source
    from agvas_runtime.camera.connection import AnyClient
    from agvas_runtime.camera.line import SILENCE_S, LinePlan
    from agvas_runtime.camera.run import Outputs, run_lines
    from agvas_runtime.camera.source import CaptureOptions
    from agvas_runtime.client import Client
    from agvas_runtime.local_client import LocalClient
    from agvas_runtime.server.channel import read_token
    from agvas_runtime.verdict import Recipe

    given = {"--server": server != DEFAULT_SERVER, "--token-file": token_file, "--ca": ca, "--cert": cert, "--key": key}
    if local is not None and (beside := next((name for name, value in given.items() if value), None)):
        raise InputError(f"can't use {beside} beside --local, whose server is on this machine; choose one")
    if largest_frame_mb != LARGEST_FRAME_MB and local is None:
        raise InputError(f"--largest-frame-mb: found {largest_frame_mb} without --local, expected both")
    if keep != KEEP and rejects is None:
        raise InputError(f"--keep: found {keep} without --rejects, expected both")
    options = CaptureOptions(fps, loop, trigger, _features(settings or []))
    cameras = [open_source(each, options) for each in sources]
    ids = [camera_id for camera_id, _ in cameras]
    if twice := next((each for each in ids if ids.count(each) > 1), None):
        raise InputError(f"found the camera {twice} twice, expected ids of their own: {twice}-2=SOURCE")
    asked: dict[str, Any] = {"min_area_px": min_area, "min_score": min_score}
    asked["on_no_answer"] = None if on_no_answer is None else on_no_answer.value
    recipe = Recipe(**{name: value for name, value in asked.items() if value is not None})
    mask: Any = "packed_bits" if rejects else "none"
    asks = Asked(recipe=recipe, recipe_name=recipe_name, deadline_ms=deadline_ms, mask=mask)
    plan = LinePlan(policy.value, count, instruction=instruction, asked=asks)
    token = None if token_file is None else read_token(token_file)

    def connect() -> AnyClient:
        if local is not None:
            return LocalClient(local, timeout_s=SILENCE_S, largest_frame_mb=largest_frame_mb)
        return Client(server, token=token, ca=ca, cert=cert, key=key)

    rule: Any = (on_no_answer or OnNoAnswer.REJECT).value
    run_lines(cameras, connect, plan, deadline_ms / 1000, rule, Outputs(as_json, jsonl, rejects, keep, on_reject))


def _features(settings: list[str]) -> dict[str, str]:
    features = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not (name and equals):
            raise InputError(f"--set: found {setting}, expected NAME=VALUE")
        features[name] = value
    return features
