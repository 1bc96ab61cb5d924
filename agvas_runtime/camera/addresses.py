"""From what a user writes (`gige:GV01`, `rtsp://...`, a folder) to a source and the camera's id."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from agvas_runtime.camera.source import CaptureOptions, Source
from agvas_runtime.errors import InputError
from agvas_runtime.frames import SUFFIXES

KINDS = "gige:ID, gentl:FILE.cti[#ID], pylon:[SERIAL], rtsp://..., a folder, an image or a video file"
STREAMS = ("rtsp", "rtsps", "http", "https")
_NAMED = re.compile(r"([A-Za-z0-9._-]{1,64})=(.+)", re.DOTALL)
_UNFIT = re.compile(r"[^A-Za-z0-9._-]+")


def open_source(address: str, options: CaptureOptions) -> tuple[str, Source]:
    """The camera's id, and the source; nothing is connected yet.

    Args:
        address: what the user wrote; `left=gige:GV01` gives the camera an id of its own.
        options: how to capture.

    Raises:
        InputError: the address names no source, or the options do not fit its kind.
        EngineError: a package that this kind of source needs is not installed.
    """
    named = None if Path(address).exists() else _NAMED.fullmatch(address)
    camera_id, rest = (named[1], named[2]) if named else ("", address)
    kind, colon, which = rest.partition(":")
    if which.startswith("//") and kind.lower() in STREAMS:
        usual, source = _stream(f"{kind.lower()}:{which}", options)
    elif colon and kind in ("gige", "gentl", "pylon"):
        usual, source = _genicam(kind, which, options)
    elif colon and kind in ("folder", "video"):
        usual, source = _file(Path(which), options)
    elif Path(rest).exists():
        usual, source = _file(Path(rest), options)
    else:
        shown = f"{kind}://{which.rpartition('@')[2].removeprefix('//')}" if which.startswith("//") else rest
        shown = shown.rpartition("@")[2].partition("?")[
            0
        ]  # whoever mistypes an address has his password in it all the same
        raise InputError(f"{shown}: no such camera, file or folder; expected {KINDS}")
    return camera_id or _UNFIT.sub("-", usual).strip("-") or "camera", source


def _genicam(kind: str, which: str, options: CaptureOptions) -> tuple[str, Source]:
    if options.runs_free:
        _refuse_pace(f"{kind}:{which}", options)
    if options.loop:
        raise InputError(f"{kind}:{which}: found --loop, expected none: a camera never ends")
    if options.fps is not None and options.trigger != "software":
        raise InputError(f"{kind}:{which}: found --fps, expected none without --trigger software")
    if kind == "gige":
        from agvas_runtime.camera.aravis import AravisSource

        return which or "gige", AravisSource(which, options)
    if kind == "pylon":
        from agvas_runtime.camera.pylon import PylonSource

        return which or "pylon", PylonSource(which, options)
    from agvas_runtime.camera.gentl import GenTLSource

    producer, _, camera = which.partition("#")
    if not producer:
        raise InputError("gentl: found no producer, expected gentl:FILE.cti or gentl:FILE.cti#CAMERA")
    return camera or Path(producer).stem, GenTLSource(producer, camera, options)


def _file(path: Path, options: CaptureOptions) -> tuple[str, Source]:
    _refuse_genicam(path.name, options)
    if path.is_dir() or path.suffix.lower() in SUFFIXES:
        from agvas_runtime.camera.folder import FolderSource

        return path.resolve().stem, FolderSource(path, options)
    from agvas_runtime.camera.video import VideoSource

    return path.stem, VideoSource(str(path), str(path), options)


def _stream(url: str, options: CaptureOptions) -> tuple[str, Source]:
    from agvas_runtime.camera.video import VideoSource

    try:
        parts = urlsplit(url)
    except ValueError as error:  # it may hold a password, so it is not shown
        raise InputError(f"address: found one that is no URL ({error}), expected rtsp://HOST/PATH") from None
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    _refuse_genicam(shown, options)
    _refuse_pace(shown, options)
    return f"{parts.hostname}{parts.path}", VideoSource(url, shown, options)


def _refuse_genicam(name: str, options: CaptureOptions) -> None:
    if options.trigger != "free" or options.features:
        raise InputError(f"{name}: found --trigger or --set, expected neither: it is no machine-vision camera")


def _refuse_pace(name: str, options: CaptureOptions) -> None:
    if options.fps is not None or options.loop:
        raise InputError(f"{name}: found --fps or --loop, expected neither: it runs at its own pace and never ends")
