"""Grabs from a GigE Vision or USB3 Vision camera with Aravis and writes the frames to stdout.

A program of its own, run by `aravis.py`: PyGObject comes from the system's packages, so it is there for the system's
Python only. It needs nothing but the standard library and PyGObject, and ends when its stdin does.

    python3 aravis_grabber.py '{"camera": "GV01", "features": {"ExposureTime": "500"}, "trigger": "free", "fps": 1}'

Every message on stdout is a head (the bytes of both parts, `<II`), JSON, and a frame's bytes where it has some.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import threading
from time import monotonic, time
from typing import Any

try:
    import gi

    gi.require_version("Aravis", "0.8")
    from gi.repository import Aravis, GLib
except (ImportError, ValueError):  # another Python may look at this file; it is not run there
    Aravis = GLib = None

HEAD = struct.Struct("<II")
POLL_US = 250_000
FRAME_US = 2_000_000
BUFFERS = 16
SOCKET_BYTES = 8_000_000
"""Of the stream's socket: what the system gives by itself is less than two frames, and loses packets."""

Message = dict[str, Any]


def tell(message: Message, data: bytes = b"") -> None:
    """Write a message; raises BrokenPipeError where nobody reads any more."""
    text = json.dumps(message).encode()
    for part in (HEAD.pack(len(text), len(data)) + text, data):
        view = memoryview(part)
        while view:
            view = view[os.write(1, view) :]


def find(camera: str) -> str | None:
    """The id of the camera with this serial number, id or address; the first one's for an empty text."""
    Aravis.update_device_list()
    found = []
    for index in range(Aravis.get_n_devices()):
        facts = [
            Aravis.get_device_id(index),
            Aravis.get_device_serial_nbr(index),
            Aravis.get_device_address(index),
        ]
        if not camera or camera in facts:
            return str(facts[0])
        found.append(facts[1] or facts[0])
    tell({"lost": f"found the cameras {', '.join(found) or 'none'}, expected {camera or 'one'}"})
    return None


def configure(camera: Aravis.Camera, features: dict[str, str], trigger: str) -> bool:
    """Set the features, then the trigger; false, and told, where the camera refuses one."""
    device = camera.get_device()
    name, value = "", ""
    try:
        for name, value in features.items():
            device.set_features_from_string(f"{name}={value}")
        name, value = "TriggerSource", trigger
        if trigger == "free":
            if "TriggerMode" not in features and camera.is_feature_available("TriggerMode"):
                camera.clear_triggers()
        else:
            camera.set_trigger("Software" if trigger == "software" else trigger)
    except GLib.Error as error:
        tell({"wrong": f"{name}: found {value}, which the camera refuses: {error.message.strip()}"})
        return False
    return True


def open_stream(camera: Aravis.Camera) -> Aravis.Stream:
    """The camera's stream with its buffers."""
    gige = camera.is_gv_device()
    if gige:  # as root Aravis takes a packet socket, which sees nothing on the loopback interface
        camera.gv_set_stream_options(Aravis.GvStreamOption.PACKET_SOCKET_DISABLED)
    stream = camera.create_stream(None, None)
    if gige:
        stream.set_property("socket-buffer", Aravis.GvStreamSocketBuffer.FIXED)
        stream.set_property("socket-buffer-size", SOCKET_BYTES)
    payload = camera.get_payload()
    for _ in range(BUFFERS):
        stream.push_buffer(Aravis.Buffer.new_allocate(payload))
    return stream


def tell_frame(buffer: Aravis.Buffer, pixel_format: str) -> None:
    """Write a buffer's frame; one that is not complete without its bytes."""
    stamp = buffer.get_system_timestamp()
    message: Message = {
        "frame": buffer.get_frame_id(),
        "ago_s": time() - stamp / 1e9 if stamp else 0.0,
        "status": buffer.get_status().value_nick,
    }
    if buffer.get_status() != Aravis.BufferStatus.SUCCESS:
        tell(message)
        return
    message |= {"width": buffer.get_image_width(), "height": buffer.get_image_height(), "pixel_format": pixel_format}
    tell({**message, "padding": buffer.get_image_padding()[0]}, buffer.get_image_data())


def restart(camera: Aravis.Camera, stream: Aravis.Stream) -> None:
    """Begin the acquisition anew, without what came of the one before."""
    if camera.is_feature_available("AcquisitionAbort"):  # ends an exposure, too
        camera.abort_acquisition()
    camera.stop_acquisition()
    while (buffer := stream.try_pop_buffer()) is not None:
        stream.push_buffer(buffer)
    camera.start_acquisition()


def grab(camera: Aravis.Camera, asked: Message, ended: threading.Event) -> None:
    """Write frames until the camera is lost or stdin ends."""
    lost, software = threading.Event(), asked["trigger"] == "software"
    camera.get_device().connect("control-lost", lambda *_: lost.set())
    stream = open_stream(camera)
    pixel_format = camera.get_pixel_format_as_string()
    camera.set_acquisition_mode(Aravis.AcquisitionMode.CONTINUOUS)
    camera.start_acquisition()
    due, period = monotonic(), 1 / asked["fps"] if asked["fps"] else 0.0
    owed = False
    try:
        while not lost.is_set() and not ended.is_set():
            if software:
                if ended.wait(max(0.0, due - monotonic())):
                    break
                due = max(due + period, monotonic())
                if owed:  # what comes late must not be taken for the frame of this trigger
                    restart(camera, stream)
                camera.software_trigger()
            buffer = stream.timeout_pop_buffer(FRAME_US if software else POLL_US)
            owed = buffer is None
            if buffer is not None:
                tell_frame(buffer, pixel_format)
                stream.push_buffer(buffer)
            else:
                tell({"silent": software})
        if lost.is_set():
            tell({"lost": "the camera does not answer any more"})
    finally:
        if not lost.is_set():
            camera.stop_acquisition()


def main() -> None:
    """Do what the only argument says."""
    asked, ended = json.loads(sys.argv[1]), threading.Event()

    def listen() -> None:
        sys.stdin.buffer.read()
        ended.set()

    threading.Thread(target=listen, daemon=True).start()
    try:
        device = find(asked["camera"])
        if device is None:
            return
        camera = Aravis.Camera.new(device)
        if configure(camera, asked["features"], asked["trigger"]):
            tell({"open": device})
            grab(camera, asked, ended)
    except GLib.Error as error:
        tell({"lost": error.message.strip()})
    except BrokenPipeError:  # whoever read this is gone; the camera was stopped on the way here
        pass


if __name__ == "__main__":
    main()
