"""Basler's cameras (GigE and USB3), by pypylon. Needs the extra `pylon`."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import suppress
from functools import partial
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


class PylonSource:
    """A camera by its serial number or its own name; the first one where that is empty.

    Raises EngineError where pypylon is not installed.
    """

    def __init__(self, camera: str, options: CaptureOptions) -> None:
        self._camera, self._options, self.name = camera, options, f"pylon:{camera}"
        self._pylon = _pypylon()

    def frames(self, stopping: Event) -> Generator[Captured, None, None]:
        """As `Source`; a grab that failed (lost packets, mostly) is a broken frame."""
        try:
            factory = self._pylon.TlFactory.GetInstance()
            camera = self._pylon.InstantCamera(factory.CreateDevice(self._chosen(factory)))
            camera.Open()
            try:
                yield from self._grab(camera, stopping)
            finally:
                with suppress(Exception):  # a camera that is gone cannot be stopped
                    camera.Close()
        except (InputError, SourceLostError):
            raise
        except Exception as error:  # pylon's own exceptions have no common class here
            raise SourceLostError(f"{self.name}: {_text(error)}") from None

    def _chosen(self, factory: Any) -> Any:
        found = factory.EnumerateDevices()
        for device in found:
            if self._camera in ("", device.GetSerialNumber(), device.GetUserDefinedName()):
                return device
        there = ", ".join(device.GetSerialNumber() for device in found) or "none"
        raise SourceLostError(f"{self.name}: found the cameras {there}, expected {self._camera or 'one'}")

    def _grab(self, camera: Any, stopping: Event) -> Iterator[Captured]:
        for name, value in {**self._options.features, **self._options.trigger_features()}.items():
            self._set(camera, name, value)
        pixel_format = format_of(camera.PixelFormat.Value)
        fps = 1.0 if self._options.fps is None else self._options.fps
        software, numbers = self._options.trigger == "software", FrameNumbers()
        trigger = SoftwareTrigger(Pace(fps), partial(self._execute, camera), partial(self._restart, camera))
        pulse, returns = Pulse(self.name, self._options), self._pylon.TimeoutHandling_Return
        camera.StartGrabbing(self._pylon.GrabStrategy_OneByOne)
        while not stopping.is_set():
            if software and not trigger.next(stopping):
                return
            result = camera.RetrieveResult(round((FRAME_S if software else POLL_S) * 1000), returns)
            if result.IsValid():
                pulse.beat()
                number = int(result.BlockID)
                if not software:
                    yield from numbers.missing(number)
                yield _captured(result, number, pixel_format)
                result.Release()
            elif camera.IsCameraDeviceRemoved():
                raise SourceLostError(f"{self.name}: the camera was removed")
            elif software:
                yield trigger.missed()
            pulse.check()

    def _execute(self, camera: Any) -> None:
        camera.WaitForFrameTriggerReady(round(FRAME_S * 1000), self._pylon.TimeoutHandling_Return)
        camera.TriggerSoftware.Execute()

    def _restart(self, camera: Any) -> None:
        with suppress(Exception):  # ends an exposure, too, where the camera can do that
            camera.AcquisitionAbort.Execute()
        camera.StopGrabbing()
        camera.StartGrabbing(self._pylon.GrabStrategy_OneByOne)

    def _set(self, camera: Any, name: str, value: str) -> None:
        try:
            node = camera.GetNodeMap().GetNode(name)
            if node is None:
                raise InputError(f"{name}: the camera has no such feature")
            node.FromString(value)
        except InputError:
            if name in self._options.features or value != "Off":  # a trigger that is to be off need not exist
                raise
        except Exception as error:
            raise InputError(f"{name}: found {value}, which the camera refuses: {_text(error)}") from None


def _captured(result: Any, number: int, pixel_format: str) -> Captured:
    if not result.GrabSucceeded():
        return Captured(None, trigger_id=str(number), broken=f"the grab failed: {result.ErrorDescription}")
    data = bytes(result.GetBuffer())
    frame = raw_frame(data, int(result.Width), int(result.Height), pixel_format, int(result.PaddingX))
    return Captured(frame, trigger_id=str(number))


def _pypylon() -> Any:
    try:
        from pypylon import pylon
    except ImportError:
        raise EngineError("pypylon is not installed, which Basler's need: pip install 'agvas[pylon]'") from None
    return pylon


def _text(error: Exception) -> str:
    told = " ".join(str(error).split()).partition(" thrown (file")[0]
    return told.rpartition(" : ")[0] or told or type(error).__name__
