"""Any camera with a GenTL producer (a .cti file of its maker), by harvesters. Needs the extra `genicam`."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from agvas_runtime.camera.pfnc import format_of, raw_frame
from agvas_runtime.camera.source import (
    FRAME_S,
    POLL_S,
    Captured,
    CaptureOptions,
    FrameNumbers,
    Pace,
    Pulse,
    SoftwareTrigger,
    SourceLostError,
)
from agvas_runtime.errors import EngineError, InputError


class GenTLSource:
    """A camera of a producer.

    Args:
        producer: the .cti file, or its name in a folder of GENICAM_GENTL64_PATH or in the genicam package.
        camera: its serial number or id; the first camera where empty.
        options: how to capture.

    Raises InputError where there is no such producer, EngineError where the packages are not installed.
    """

    def __init__(self, producer: str, camera: str, options: CaptureOptions) -> None:
        self._harvesters = _harvesters()
        self._producer, self._camera, self._options = _producer(producer), camera, options
        self.name = f"gentl:{Path(producer).name}" + (f"#{camera}" if camera else "")

    def frames(self, stopping: Event) -> Generator[Captured, None, None]:
        """As `Source`; a buffer that the producer calls incomplete is a broken frame."""
        harvester = self._harvesters.Harvester()
        try:
            harvester.add_file(str(self._producer))
            harvester.update()
            acquirer = harvester.create(self._chosen(harvester.device_info_list))
            try:
                yield from self._grab(acquirer, stopping)
            finally:
                with suppress(Exception):  # a camera that is gone cannot be stopped
                    acquirer.destroy()
        except (InputError, SourceLostError):
            raise
        except Exception as error:  # the producers raise what they like
            raise SourceLostError(f"{self.name}: {_first_line(error)}") from None
        finally:
            with suppress(Exception):
                harvester.reset()

    def _chosen(self, found: list[Any]) -> int:
        """Which of the cameras is meant."""
        names = [{_told(device, "serial_number"), _told(device, "id_")} - {""} for device in found]
        for index, own in enumerate(names):
            if not self._camera or self._camera in own:
                return index
        there = ", ".join(sorted(_told(device, "serial_number") or _told(device, "id_") for device in found)) or "none"
        raise SourceLostError(f"{self.name}: found the cameras {there}, expected {self._camera or 'one'}")

    def _grab(self, acquirer: Any, stopping: Event) -> Iterator[Captured]:
        nodes = acquirer.remote_device.node_map
        for name, value in {**self._options.features, **self._options.trigger_features()}.items():
            _set(nodes, name, value, self._options.features)
        pixel_format = format_of(nodes.PixelFormat.value)
        incomplete: list[bool] = []
        acquirer.add_callback(acquirer.Events.INCOMPLETE_BUFFER, self._noter(incomplete))
        fps = 1.0 if self._options.fps is None else self._options.fps
        software, numbers = self._options.trigger == "software", FrameNumbers()
        trigger = SoftwareTrigger(Pace(fps), lambda: nodes.TriggerSoftware.execute(), partial(_restart, acquirer))
        pulse = Pulse(self.name, self._options)
        acquirer.start()
        while not stopping.is_set():
            if software and not trigger.next(stopping):
                return
            buffer = acquirer.try_fetch(timeout=FRAME_S if software else POLL_S)
            if incomplete:
                incomplete.clear()
                pulse.beat()
                numbers.unnamed()
                yield Captured(None, broken="the producer delivered an incomplete buffer")
            elif buffer is not None:
                pulse.beat()
                with buffer:
                    number = int(buffer.module.frame_id)
                    if not software:
                        yield from numbers.missing(number)
                    yield _captured(buffer.payload.components[0], number, pixel_format)
            elif software:
                yield trigger.missed()
            pulse.check()

    def _noter(self, incomplete: list[bool]) -> Any:
        class Note(self._harvesters.Callback):  # type: ignore[name-defined, misc]
            def emit(self, context: Any) -> None:
                incomplete.append(True)

        return Note()


def _restart(acquirer: Any) -> None:
    """Begin the acquisition anew, without what came of the one before."""
    with suppress(Exception):  # ends an exposure, too, where the camera can do that
        acquirer.remote_device.node_map.AcquisitionAbort.execute()
    acquirer.stop()
    acquirer.start()


def _captured(component: Any, number: int, pixel_format: str) -> Captured:
    """The first picture of a buffer: its memory goes back to the producer, so it is copied."""
    height, width = int(component.height), int(component.width)
    data = component.data.tobytes()
    return Captured(raw_frame(data, width, height, pixel_format, int(component.x_padding)), trigger_id=str(number))


def _set(nodes: Any, name: str, value: str, asked: Any) -> None:
    """Set a feature; a trigger that is to be off need not exist."""
    if not nodes.has_node(name):
        if name not in asked and value == "Off":
            return
        raise InputError(f"{name}: the camera has no such feature")
    try:
        nodes.get_node(name).from_string(value)
    except Exception as error:
        raise InputError(f"{name}: found {value}, which the camera refuses: {_first_line(error)}") from None


def _told(device: Any, name: str) -> str:
    """A fact that producers need not know."""
    try:
        return str(getattr(device, name) or "")
    except Exception:
        return ""


def _producer(name: str) -> Path:
    import genicam

    folders = [*os.environ.get("GENICAM_GENTL64_PATH", "").split(os.pathsep), str(Path(genicam.__file__).parent)]
    places = [Path(name), *(Path(folder) / name for folder in folders if folder)]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        searched = ", ".join(str(place.parent) for place in places)
        raise InputError(f"gentl:{name}: no such producer; searched {searched}")
    return found.resolve()


def _harvesters() -> Any:
    try:
        import harvesters.core
    except ImportError:
        raise EngineError(
            "harvesters and genicam are not installed, which GenTL cameras need: pip install 'agvas[genicam]'"
        ) from None
    logging.getLogger("harvesters").setLevel(logging.CRITICAL)  # what it would say is said in the frames
    return harvesters.core


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
