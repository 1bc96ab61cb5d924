"""Image files as a camera: sent as they are, one a trigger."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from threading import Event

from agvas_runtime.camera.source import Captured, CaptureOptions, Pace
from agvas_runtime.errors import InputError
from agvas_runtime.frames import find_images, read_bytes

USUAL_FPS = 10.0


class FolderSource:
    """The image files of a folder by name, or one file; raises InputError where there are none."""

    def __init__(self, path: Path, options: CaptureOptions) -> None:
        self.name = str(path)
        self._paths, self._options = find_images(path), options

    def frames(self, stopping: Event) -> Generator[Captured, None, None]:
        """Each file once, or again and again; one that cannot be read is a broken frame."""
        fps = self._options.fps
        pace = Pace(USUAL_FPS if fps is None else fps)
        while True:
            for path in self._paths:
                if not pace.wait(stopping):
                    return
                try:
                    yield Captured(read_bytes(path), part_id=path.name)
                except InputError as error:
                    yield Captured(None, part_id=path.name, broken=str(error))
            if not self._options.loop:
                return
