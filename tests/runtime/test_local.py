"""Cameras on the server's own machine: the same answers as over gRPC, and nothing of theirs can harm the server."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from time import sleep

import numpy as np
import pytest

from agvas_runtime import local_client
from agvas_runtime.client import Client, ConnectionLostError, DeadlineMissedError
from agvas_runtime.demo.server_process import server_process
from agvas_runtime.errors import EngineError, InputError
from agvas_runtime.frames import as_rgb
from agvas_runtime.local_client import SLOTS, LocalClient
from agvas_runtime.local_wire import ANSWER, END, HELLO, REPLY_HEAD, REQUEST_HEAD, receive_exactly, send_memory
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.server import local
from agvas_runtime.verdict import Recipe, Verdict
from agvas_runtime.wire import FrameIdentity
from tests.conftest import DEMO_FRAMES
from tests.runtime.live_server import DEFECT, IMAGES, NORMAL, live_server, raw, request, until

PHOTO = sorted(DEMO_FRAMES.glob("*.jpg"))[DEFECT]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("local") / "s"


@pytest.fixture(scope="module")
def running(path):
    with live_server(local=path, max_memory_mb=400) as live:
        yield live


@pytest.fixture
def live(running):
    running.as_new()
    yield running
    running.as_new()
    until(lambda: not running.server._local._open)


@pytest.fixture
def client(live, path):
    with LocalClient(path) as made:
        yield made


class Raw:
    """A caller who says what he likes."""

    def __init__(self, path, *, size=4096, seals=fcntl.F_SEAL_SHRINK, greet=True):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(30)
        self.socket.connect(str(path))
        self.fd = os.memfd_create("caller", os.MFD_ALLOW_SEALING)
        os.truncate(self.fd, size)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, seals)
        if greet:
            send_memory(self.socket, self.fd)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.socket.close()
        os.close(self.fd)

    def open(self, **fields):
        assert receive_exactly(self.socket, len(HELLO)) == HELLO
        self.send(pb.InspectRequest(open=pb.CameraStream(camera_id="raw", **fields)).SerializeToString())

    def send(self, content, offset=0, size=0):
        self.socket.sendall(REQUEST_HEAD.pack(len(content), offset, size) + content)

    def receive(self):
        """The next answer, or how it ended."""
        while True:
            kind, size = REPLY_HEAD.unpack(receive_exactly(self.socket, REPLY_HEAD.size))
            content = receive_exactly(self.socket, size)
            if kind == END:
                return content.decode()
            assert kind == ANSWER
            message = pb.InspectResponse.FromString(content)
            if message.HasField("answer"):
                return message.answer


def same(found, expected):
    for name in (
        "verdict",
        "gate",
        "reason",
        "answer",
        "scores",
        "regions",
        "size",
        "identity",
        "recipe_name",
    ):
        assert getattr(found, name) == getattr(expected, name), name
    for name in ("mask", "probability"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


@pytest.mark.parametrize("image", [IMAGES[DEFECT], IMAGES[NORMAL], IMAGES[DEFECT][..., 0], PHOTO, PHOTO.read_bytes()])
def test_a_reply_is_the_one_that_comes_over_the_network(live, client, image):
    asked = {
        "probability": "float32",
        "recipe": Recipe(min_area_px=3),
        "identity": FrameIdentity(part_id="p", sequence=7),
    }
    with Client(live.address) as other:
        expected = other.segment(image, "Is there a scratch?", **asked)
    same(client.segment(image, "Is there a scratch?", **asked), expected)


def test_the_format_of_pixels_can_be_said(client):
    blue = np.zeros((20, 30, 3), np.uint8)
    blue[..., 0] = 250
    found = client.segment(blue, pixel_format="BGR8", probability="float32")
    np.testing.assert_array_equal(found.probability, client.segment(blue[..., ::-1], probability="float32").probability)


def test_a_stream_answers_every_frame_in_order_by_its_identity(client):
    order = [number % len(IMAGES) for number in range(3 * SLOTS)]
    frames = [(IMAGES[image], FrameIdentity(sequence=number)) for number, image in enumerate(order)]
    replies = list(client.inspect(frames, camera_id="line", mask="none"))
    assert [reply.identity.sequence for reply in replies] == list(range(len(frames)))
    assert {reply.identity.camera_id for reply in replies} == {"line"}
    assert all(reply.status == "ok" for reply in replies)
    wanted = [client.segment(image, mask="none").verdict for image in IMAGES]
    assert [reply.verdict for reply in replies] == [wanted[image] for image in order]


def test_what_is_wrong_with_a_frame_is_said_in_the_server_s_words_and_the_next_is_answered(live, client):
    with Client(live.address) as other:
        for image, asked in ((b"no image", {}), (b"", {}), (IMAGES[DEFECT], {"recipe_name": "missing"})):
            with pytest.raises(InputError) as wanted:
                other.segment(image, **asked)
            with pytest.raises(InputError) as caught:
                client.segment(image, **asked)
            assert str(caught.value) == str(wanted.value)
    with pytest.raises(InputError, match="expected uint8"):
        client.segment(np.zeros((3, 3), np.float32))
    assert client.segment(IMAGES[DEFECT]).verdict is Verdict.REJECT
    replies = list(client.inspect([IMAGES[DEFECT], b"no image", IMAGES[NORMAL]]))
    assert [reply.status for reply in replies] == ["ok", "invalid", "ok"]


def test_a_frame_larger_than_its_memory_is_refused(live, path):
    with LocalClient(path, largest_frame_mb=1) as client:
        with pytest.raises(
            InputError, match="found a frame of 3000000 bytes, expected at most largest_frame_mb, 1 MiB"
        ):
            client.segment(np.zeros((1000, 1000, 3), np.uint8))
        assert client.segment(IMAGES[DEFECT]).verdict is Verdict.REJECT


def test_frames_that_cannot_be_sent_are_left_out_where_somebody_wants_to_know(live, path):
    large, unsent = np.zeros((1000, 1000, 3), np.uint8), []
    frames = [(image, FrameIdentity(sequence=number)) for number, image in enumerate([large, IMAGES[NORMAL]])]
    with LocalClient(path, largest_frame_mb=1) as client:
        (reply,) = client.inspect(frames, on_unsent=lambda *told: unsent.append(told))
        assert (reply.status, reply.identity.sequence) == ("ok", 1)
        ((identity, error),) = unsent
        assert (identity.sequence, "found a frame of 3000000 bytes" in str(error)) == (0, True)
        with pytest.raises(InputError, match="found a frame of 3000000 bytes"):
            list(client.inspect(frames))


def test_an_opening_that_makes_no_sense_ends_the_stream_naming_the_field(client):
    with pytest.raises(InputError, match=r"open\.queue: found 99, expected 1 to 64"):
        list(client.inspect([IMAGES[DEFECT]], queue=99))
    with pytest.raises(InputError, match="policy: found 'newest'"):
        client.inspect([], policy="newest")


def test_a_late_frame_is_expired(live, client):
    with live.frozen():
        first = live.inspection.Segment.future(request())
        until(lambda: live.accepted == 1 and live.waiting == 0)
        with pytest.raises(DeadlineMissedError, match="the deadline of 50 ms passed"):
            client.segment(IMAGES[NORMAL], deadline_ms=50)
    assert first.result().status == pb.FRAME_STATUS_OK


def test_frames_that_cannot_be_taken_end_the_stream_with_their_own_error(client):
    def frames():
        yield IMAGES[DEFECT]
        raise ZeroDivisionError("the camera")

    replies = []
    with pytest.raises(ZeroDivisionError, match="the camera"):
        replies.extend(client.inspect(frames()))


def test_newer_frames_take_the_place_of_older_ones_where_that_is_asked(live, client):
    def frames():
        yield IMAGES[NORMAL]
        until(lambda: live.accepted == 1 and live.waiting == 0)
        yield from [IMAGES[NORMAL]] * 5

    replies = client.inspect(frames(), policy="latest", camera_id="line")
    with live.frozen(), ThreadPoolExecutor(1) as camera:
        taken = camera.submit(list, replies)
        until(lambda: len(live.places("line")) == 6)
        os.kill(live.pid, signal.SIGCONT)
        statuses = [reply.status for reply in taken.result(30)]
    assert statuses == ["ok", "dropped", "dropped", "dropped", "dropped", "ok"]


def test_a_caller_who_dies_leaves_nothing_behind(live, path):
    script = (
        "import sys, numpy as np; from agvas_runtime.local_client import LocalClient\n"
        "frames = [np.zeros((90, 120, 3), np.uint8)] * 5\n"
        "for reply in LocalClient(sys.argv[1]).inspect(iter(frames), camera_id='dies'):\n"
        "    print(reply.status, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE) as caller:
        caller.stdout.readline()
        with live.frozen():
            os.kill(caller.pid, signal.SIGKILL)
            until(lambda: live.session("dies") is None)
    until(lambda: live.accepted == 0)


@pytest.mark.parametrize(
    ("greeting", "options"),
    [(None, {"seals": fcntl.F_SEAL_GROW}), (b"x" * len(HELLO), {}), (HELLO, {}), (b"", {})],
    ids=["can shrink", "garbage", "no memory", "nothing"],
)
def test_who_does_not_begin_as_he_must_is_cut_off(live, path, greeting, options):
    with Raw(path, greet=greeting is None, **options) as caller:
        if greeting:
            caller.socket.sendall(greeting)
        elif greeting is not None:
            caller.socket.shutdown(socket.SHUT_WR)
        assert caller.socket.recv(1) == b""


def test_bytes_of_a_frame_outside_the_memory_are_that_frame_s_failure(live, path):
    frame = raw(IMAGES[NORMAL])
    size = len(frame.raw.data)
    message = pb.InspectRequest(frame=pb.SegmentRequest(frame=frame))
    message.frame.frame.raw.data = b""
    content = message.SerializeToString()
    with Raw(path, size=2 * size) as caller:
        caller.open()
        for offset, expected in ((size + 1, pb.FRAME_STATUS_INVALID), (1 << 63, pb.FRAME_STATUS_INVALID)):
            caller.send(content, offset, size)
            answer = caller.receive()
            assert answer.status == expected
            assert "within the" in answer.reason
        caller.send(content, size, size)
        assert caller.receive().status == pb.FRAME_STATUS_OK
        caller.send(b"\xff\xff\xff", 0, size)
        assert caller.receive().status == pb.FRAME_STATUS_INVALID
        caller.send(content, 0, 5)
        assert "frame.raw.data: found 5 bytes" in caller.receive().reason
        caller.socket.shutdown(socket.SHUT_WR)
        assert caller.receive() == "OK "


def test_a_message_of_a_gigabyte_is_not_waited_for(live, path):
    with Raw(path) as caller:
        caller.open()
        caller.socket.sendall(REQUEST_HEAD.pack((1 << 32) - 1, 0, 0))
        assert (
            caller.receive() == f"RESOURCE_EXHAUSTED message: found {(1 << 32) - 1} bytes, expected at most {1 << 20}"
        )


def test_a_caller_who_takes_no_answers_is_cut_off_and_others_notice_nothing(live, path, client, monkeypatch):
    monkeypatch.setattr(local, "TAKE_S", 1)
    large = np.zeros((700, 900, 3), np.uint8)
    message = pb.InspectRequest(frame=pb.SegmentRequest(frame=raw(large)))
    message.frame.frame.raw.data = b""
    message.frame.probability_format = pb.PROBABILITY_FORMAT_FLOAT32
    content = message.SerializeToString()
    with Raw(path, size=large.nbytes) as caller:
        caller.open(policy=pb.QUEUE_POLICY_BLOCK)
        for _ in range(6):
            caller.send(content, 0, large.nbytes)
        until(lambda: live.session("raw") is not None)
        while live.session("raw") is not None:
            assert client.segment(IMAGES[DEFECT]).verdict is Verdict.REJECT


def test_who_opens_no_stream_is_cut_off_and_holds_no_place(live, path, monkeypatch):
    monkeypatch.setattr(local, "HELLO_S", 0.3)
    with Raw(path) as caller:
        assert receive_exactly(caller.socket, len(HELLO)) == HELLO
        assert caller.socket.recv(1) == b""
    until(lambda: not live.server._local._open)
    assert live.server._service.open_streams == 0


def test_an_image_file_of_gigabytes_is_not_copied(live, path):
    with Raw(path, size=1 << 32) as caller:
        caller.open()
        message = pb.InspectRequest(frame=pb.SegmentRequest()).SerializeToString()
        caller.send(message, 0, 1 << 31)
        assert caller.receive().reason == f"frame: found {1 << 31} bytes, expected at most {64 << 20}"


def test_a_message_that_ends_behind_its_head_is_no_frame(live, path):
    with Raw(path) as caller:
        caller.open()
        caller.socket.sendall(REQUEST_HEAD.pack(10, 0, 0))
        caller.socket.shutdown(socket.SHUT_WR)
        rest = b"".join(iter(lambda: caller.socket.recv(4096), b""))
        assert b"event" not in rest


def test_the_listener_outlives_a_moment_without_descriptors(live, path, client, monkeypatch):
    accept, failed = socket.socket.accept, threading.Event()

    def failing(listening):
        if not failed.is_set():
            failed.set()
            raise OSError(24, "Too many open files")
        return accept(listening)

    monkeypatch.setattr(socket.socket, "accept", failing)
    with LocalClient(path) as first:
        first.segment(IMAGES[NORMAL])  # wakes the one accept that was under way
    assert client.segment(IMAGES[DEFECT]).verdict is Verdict.REJECT
    assert failed.is_set()


def test_a_client_that_was_interrupted_goes_on(live, client, monkeypatch):
    with live.frozen(), monkeypatch.context() as patched:
        patched.setattr(local_client._Stream, "answer", lambda stream: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            client.segment(IMAGES[DEFECT])
    assert client.segment(IMAGES[DEFECT]).verdict is Verdict.REJECT


def test_an_old_connection_is_made_anew(live, client, monkeypatch):
    client.segment(IMAGES[DEFECT])
    before = client._stream
    client.segment(IMAGES[DEFECT])
    assert client._stream is before
    client._used -= 2 * local_client.QUIET_MS / 1000
    assert client.segment(IMAGES[DEFECT]).verdict is Verdict.REJECT
    assert client._stream is not before


def test_only_its_owner_may_use_the_file(live, path):
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_path_in_use_is_refused_and_what_a_dead_server_left_is_replaced(live, path, tmp_path):
    with pytest.raises(EngineError, match="another server listens there"):
        local.LocalServer(path, live.server._service, lambda end: None)
    (tmp_path / "file").write_text("kept")
    with pytest.raises(EngineError, match="found a file that is no socket"):
        local.LocalServer(tmp_path / "file", live.server._service, lambda end: None)
    assert (tmp_path / "file").read_text() == "kept"
    with pytest.raises(EngineError, match="no such file or directory"):
        local.LocalServer(tmp_path / "none" / "s", live.server._service, lambda end: None)
    left = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    left.bind(str(tmp_path / "s"))
    left.close()
    ended = []
    local.look_at(tmp_path / "s")
    server = local.LocalServer(tmp_path / "s", live.server._service, ended.append)
    server.start()
    with LocalClient(tmp_path / "s") as client:
        assert client.segment(IMAGES[DEFECT]).verdict is Verdict.REJECT
    until(lambda: ended)
    assert (ended[0].method, ended[0].code) == ("local", "OK")
    server.stop(1)
    assert not (tmp_path / "s").exists()


def test_looking_whether_a_path_is_free_leaves_nothing_there(live, path, tmp_path):
    local.look_at(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
    for taken, reason in ((path, "another server listens there"), (tmp_path / "none" / "s", "no such file")):
        with pytest.raises(EngineError, match=reason):
            local.look_at(taken)


def test_a_stream_may_be_silent_for_longer_than_an_answer_may_take(live, path):
    def frames():
        yield IMAGES[DEFECT]
        sleep(0.8)
        yield IMAGES[DEFECT]

    with LocalClient(path, timeout_s=0.5) as client:
        assert len(list(client.inspect(frames(), heartbeat_ms=2000))) == 2


def test_a_server_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConnectionLostError, match=f"^{tmp_path}/s: no such file or directory"):
        LocalClient(tmp_path / "s").segment(IMAGES[DEFECT])


def test_a_server_that_stops_answers_what_it_has_and_says_so(tmp_path):
    with live_server(local=tmp_path / "s") as live, LocalClient(tmp_path / "s") as client:
        client.segment(IMAGES[DEFECT])
        live.server.stop()
        with pytest.raises(ConnectionLostError):
            client.segment(IMAGES[DEFECT])
    assert not (tmp_path / "s").exists()


def test_colour_after_grey_of_the_same_size_is_sent_as_colour(client):
    colour = np.ascontiguousarray(IMAGES[DEFECT])
    grey = as_rgb(np.ascontiguousarray(colour[..., 0]))
    replies = [client.segment(image) for image in (grey, colour, grey, colour)]
    assert [reply.status for reply in replies] == ["ok"] * 4
    assert np.array_equal(replies[1].mask, replies[3].mask)
    assert [reply.status for reply in client.inspect([grey, colour, colour])] == ["ok"] * 3


def test_the_first_frame_after_the_server_was_restarted_is_answered(tmp_path):
    with LocalClient(tmp_path / "s") as client:
        for _ in range(2):
            with server_process(["--local", str(tmp_path / "s")]):
                assert client.segment(IMAGES[DEFECT]).status == "ok"


@pytest.mark.parametrize("local", [True, False])
def test_a_server_that_stands_still_is_a_lost_connection_and_not_waited_for(tmp_path, local):
    path = tmp_path / "s"
    with server_process(["--local", str(path)]) as server:
        client = LocalClient(path, timeout_s=3) if local else Client(f"127.0.0.1:{server.port}", timeout_s=3)
        with client:
            frames = iter([IMAGES[DEFECT]] * 9)

            def sent():
                yield next(frames)
                answered.wait()
                yield from frames

            answered = threading.Event()
            replies = client.inspect(sent(), heartbeat_ms=100)
            assert next(replies).status == "ok"
            os.kill(server.process.pid, signal.SIGSTOP)
            try:
                sleep(4)  # nobody waits for an answer now, so this is nobody's silence
                answered.set()
                with pytest.raises(
                    ConnectionLostError, match=r"no (answer in time|message for 3 s); \d frames have no"
                ):
                    list(replies)
            finally:
                os.kill(server.process.pid, signal.SIGCONT)


def test_closing_the_client_ends_its_streams(client, live):
    held = threading.Event()

    def frames():
        yield IMAGES[DEFECT]
        held.wait()

    replies = client.inspect(frames())
    assert next(replies).status == "ok"
    threading.Timer(0.3, client.close).start()
    with pytest.raises(ConnectionLostError, match="the server went away"):
        next(replies)
    held.set()
