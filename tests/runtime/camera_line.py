"""A camera's line in this process, against a real server; and the cameras that need no hardware."""

from __future__ import annotations

import fcntl
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Event

import pytest

from agvas_runtime.camera.connection import AnyClient
from agvas_runtime.camera.gate import Decision, Gate
from agvas_runtime.camera.line import SILENCE_S, Line, LinePlan, Turn
from agvas_runtime.camera.source import Source
from agvas_runtime.client import Client
from agvas_runtime.local_client import LocalClient
from agvas_runtime.verdict import Recipe

WAIT_S = 60.0
PYTHON_PACKAGES = {"harvesters": "genicam", "pypylon": "pylon", "cv2": "camera"}
FAKE_CAMERA = "arv-fake-gv-camera-0.8"
SYSTEM_PYTHON = "/usr/bin/python3"
RTSP_PIPELINE = (
    "( videotestsrc is-live=true pattern=ball ! video/x-raw,width=160,height=120,framerate=20/1"
    " ! x264enc tune=zerolatency key-int-max=10 ! video/x-h264,profile=baseline"
    " ! rtph264pay name=pay0 pt=96 config-interval=1 )"
)
RTSP_SERVER = """
import sys, gi
gi.require_version("Gst", "1.0"); gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
factory = GstRtspServer.RTSPMediaFactory(); factory.set_launch(sys.argv[2]); factory.set_shared(True)
server = GstRtspServer.RTSPServer(); server.set_address("127.0.0.1"); server.set_service(sys.argv[1])
server.get_mount_points().add_factory("/line", factory); server.attach(None)
print(server.get_bound_port(), flush=True)
GLib.MainLoop().run()
"""


@dataclass
class Watched:
    """A line, and what it has said; it runs until `end`, or to its own end."""

    line: Line
    decisions: list[Decision] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)

    def until(self, condition) -> None:
        """Wait until it is true of the line; looked at whenever a part comes or is decided."""
        with self.line.gate.changed:
            assert self.line.gate.changed.wait_for(condition, WAIT_S)

    def until_turn(self, what: str, up: bool) -> None:
        """Wait until camera or server come or go."""
        self.until(lambda: any((turn.what, turn.up) == (what, up) for turn in self.turns))

    def finish(self) -> list[Decision]:
        """Wait for the line's own end."""
        assert self.line.ended.wait(WAIT_S)
        return self.decisions

    @property
    def statuses(self) -> list[str]:
        return [decision.status for decision in self.decisions]


@contextmanager
def running(
    source: Source,
    address: str | Path | Callable[[], AnyClient],
    deadline_s: float = 20.0,
    on_no_answer="reject",
    keep_images=False,
    **plan,
) -> Iterator[Watched]:
    """A line at work; it has ended when the block has."""
    decisions: list[Decision] = []
    turns: list[Turn] = []
    gate = Gate("line-1", deadline_s, on_no_answer, decisions.append, keep_images)

    def turned(turn: Turn) -> None:
        with gate.changed:
            turns.append(turn)
            gate.changed.notify_all()

    plan.setdefault("asked", {"recipe": Recipe(on_no_answer=on_no_answer), "mask": "packed_bits"})
    connect = address if callable(address) else partial(client_of, address)
    line = Line(source, gate, connect, LinePlan(**plan), turned)
    line.start()
    try:
        yield Watched(line, decisions, turns)
    finally:
        line.stop()
        assert line.ended.wait(WAIT_S)
        line.join(WAIT_S)


def client_of(address: str | Path) -> AnyClient:
    """Of a server's port, or of its socket."""
    return LocalClient(address, timeout_s=SILENCE_S) if isinstance(address, Path) else Client(address)


def one_decision_each(decisions: list[Decision], parts: int) -> bool:
    """Whether every part has exactly one."""
    return sorted(decision.sequence for decision in decisions) == list(range(parts))


def first_frames(source: Source, count: int) -> list:
    """So many captured frames; the camera is closed behind them."""
    stopping, found = Event(), []
    for captured in source.frames(stopping):
        found.append(captured)
        if len(found) == count:
            stopping.set()
    return found


def port_free() -> int:
    """A loopback port that nobody has."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


@contextmanager
def gige_camera(*arguments: str, serial: str = "GV01") -> Iterator[subprocess.Popen]:
    """Aravis' fake GigE Vision camera on the loopback interface; skips where its package is not installed.

    GVCP has one port, so there is one camera at a time on a machine.
    """
    if shutil.which(FAKE_CAMERA) is None:
        pytest.skip(f"no {FAKE_CAMERA} (Debian: aravis-tools)")
    has_system_package("Aravis", "0.8", "gir1.2-aravis-0.8")
    with open(Path(tempfile.gettempdir()) / "agvas-test-gvcp.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = [FAKE_CAMERA, "-i", "127.0.0.1", "-s", serial, *arguments]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


@contextmanager
def rtsp_server(port: int = 0) -> Iterator[tuple[subprocess.Popen, int]]:
    """GStreamer's RTSP server with a moving ball, and its port; skips where its packages are not installed."""
    has_system_package("GstRtspServer", "1.0", "gir1.2-gst-rtsp-server-1.0")
    for element, package in (("x264enc", "gstreamer1.0-plugins-ugly"), ("rtph264pay", "gstreamer1.0-plugins-good")):
        code = "import gi; gi.require_version('Gst', '1.0'); from gi.repository import Gst; Gst.init(None); "
        code += f"raise SystemExit(Gst.ElementFactory.find('{element}') is None)"
        if subprocess.run([SYSTEM_PYTHON, "-c", code], capture_output=True, check=False).returncode:
            pytest.skip(f"no GStreamer element {element} (Debian: {package})")
    command = [SYSTEM_PYTHON, "-c", RTSP_SERVER, str(port), RTSP_PIPELINE]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


def needs(module: str):
    """Skip where a Python package is not installed."""
    return pytest.importorskip(module, reason=f"no {module}: pip install 'agvas[{PYTHON_PACKAGES[module]}]'")


def has_system_package(name: str, version: str, package: str) -> None:
    """Skip where the system's Python has not got a library of GObject."""
    code = f"import gi; gi.require_version('{name}', '{version}'); from gi.repository import {name}"
    if (
        not Path(SYSTEM_PYTHON).exists()
        or subprocess.run([SYSTEM_PYTHON, "-c", code], capture_output=True, check=False).returncode
    ):
        pytest.skip(f"no {name} for {SYSTEM_PYTHON} (Debian: python3-gi and {package})")


class Scripted:
    """A source that gives what a test says: captured frames, exceptions to raise; one list an opening."""

    name = "scripted"

    def __init__(self, *openings: list) -> None:
        self.openings = list(openings)
        self.closed = 0

    def frames(self, stopping: Event):
        try:
            for each in self.openings.pop(0) if self.openings else []:
                if isinstance(each, Exception):
                    raise each
                if stopping.is_set():
                    return
                yield each
        finally:
            self.closed += 1
