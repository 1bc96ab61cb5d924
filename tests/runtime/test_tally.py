"""Frames and verdicts of every camera, as an operator asks for them."""

from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.server.metrics import MOST_NAMES
from agvas_runtime.server.tally import Cameras


def reply(camera: str, status=pb.FRAME_STATUS_OK, verdict=pb.VERDICT_PASS) -> pb.SegmentResponse:
    return pb.SegmentResponse(identity=pb.FrameIdentity(camera_id=camera), status=status, verdict=verdict)


def test_answers_are_counted_by_camera_status_and_verdict():
    cameras = Cameras()
    for answer in (
        reply("b"),
        reply("a"),
        reply("a", verdict=pb.VERDICT_REJECT),
        reply("a", pb.FRAME_STATUS_DROPPED, pb.VERDICT_NO_ANSWER),
        reply(""),
    ):
        cameras.count(answer)
    states = {state.camera_id: state for state in cameras.states()}
    assert list(states) == ["a", "b", "unnamed"]
    assert dict(states["a"].frames) == {"OK": 2, "DROPPED": 1}
    assert dict(states["a"].verdicts) == {"PASS": 1, "REJECT": 1, "NO_ANSWER": 1}
    assert not states["a"].connected


def test_a_camera_is_connected_while_it_has_a_stream_open():
    cameras = Cameras()
    connected = []
    for by in (1, 1, -1, -1):
        cameras.opened("a", by)
        connected.append([state.connected for state in cameras.states()])
    assert connected == [[True], [True], [True], [False]]


def test_names_that_callers_choose_are_bounded_and_harmless():
    cameras = Cameras()
    cameras.count(reply("forged\nline" + "x" * 1000))
    for number in range(2 * MOST_NAMES):
        cameras.count(reply(f"camera {number}"))
    states = {state.camera_id: state for state in cameras.states()}
    assert len(states) == MOST_NAMES + 1
    assert states["other"].frames["OK"] == MOST_NAMES + 1
    assert all(len(name) <= 64 and name.isprintable() for name in states)
