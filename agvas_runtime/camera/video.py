"""Video files and network streams (RTSP, HTTP) as a camera, by OpenCV's FFmpeg. Needs the extra `camera`.

A video stream hides what was lost: the decoder fills it in, and nobody is told. Gates want a machine-vision camera.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import Any

from agvas_runtime.camera.source import Captured, CaptureOptions, Pace, SourceLostError
from agvas_runtime.errors import EngineError, InputError

OPEN_MS, READ_MS = 10_000, 5_000
"""How long a stream may take to open, and between two frames, until it counts as lost."""
USUAL_FPS = 25.0


class VideoSource:
    """A file, or the address of a stream.

    Args:
        address: a path, or a URL.
        name: what people are told.
        options: files are played at their own rate where `fps` is None.

    Raises InputError for a file that is not there, EngineError where OpenCV is not installed.
    """

    def __init__(self, address: str, name: str, options: CaptureOptions) -> None:
        self.name, self._address, self._options = name, address, options
        self._live = "://" in address
        if not self._live and not Path(address).is_file():
            raise InputError(f"{address}: no such file or folder")
        _opencv()

    def frames(self, stopping: Event) -> Generator[Captured, None, None]:
        """BGR pictures; a stream never ends, it is lost."""
        number = 0
        while True:
            with closing(_Capture(self._address, self.name, self._live)) as video:
                usual = 0.0 if self._live else video.fps or USUAL_FPS
                pace = Pace(usual if self._options.fps is None or self._live else self._options.fps)
                while pace.wait(stopping) and (image := video.read()) is not None:
                    number += 1
                    yield Captured(image, trigger_id=str(number))
            if stopping.is_set():
                return
            if self._live:
                raise SourceLostError(f"{self.name}: the stream ended, or gave nothing for {READ_MS / 1000:g} s")
            if not number:
                raise InputError(f"{self.name}: no video that OpenCV can read")
            if not self._options.loop:
                return


class _Capture:
    """An open video."""

    def __init__(self, address: str, name: str, live: bool) -> None:
        cv2 = _opencv()
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, OPEN_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, READ_MS] if live else []
        self._video = cv2.VideoCapture(address, cv2.CAP_FFMPEG, limits)
        if not self._video.isOpened():
            self._video.release()
            kind, text = (SourceLostError, "no stream there") if live else (InputError, "no video that OpenCV can read")
            raise kind(f"{name}: {text}")
        self.fps = float(self._video.get(cv2.CAP_PROP_FPS))

    def read(self) -> Any:
        """The next picture, BGR uint8 [H, W, 3], as a frame; None where there is none."""
        found, image = self._video.read()
        if not found:
            return None
        from agvas_runtime.wire import RawFrame

        return RawFrame(image.tobytes(), image.shape[1], image.shape[0], "BGR8")

    def close(self) -> None:
        self._video.release()


def _opencv() -> Any:
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    # Over UDP, which is FFmpeg's own choice, lost packets become grey blocks.
    os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_transport;tcp")
    try:
        import cv2
    except ImportError:
        raise EngineError("OpenCV is not installed, which videos need: pip install 'agvas[camera]'") from None
    return cv2
