"""How a web's stream ends: at the camera, by a caller who goes away, with the server."""

import threading

import grpc

from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from tests.runtime.live_server import WAIT_S, live_server, until
from tests.runtime.scan.web import ROWS, STOP, WEB, Scan


def test_a_web_without_rows_ends_well(scan):
    stream = scan()
    stream.finish()
    (summary,) = stream.all("summary")
    assert (summary.rows, summary.tiles, summary.rows_per_s) == (0, 0, 0)
    assert stream.call.code() is grpc.StatusCode.OK


def test_what_a_caller_who_went_away_left_is_given_up(live, scan):
    stream = scan()
    with live.frozen():
        stream.send(WEB)
        until(lambda: live.accepted > 2)
        stream.close()
        until(lambda: live.accepted == 0 and live.server._service.open_streams == 0)
    until(lambda: live.arena.free_bytes == live.arena.size)
    assert len(live.computed) <= 1


def test_a_server_that_stops_settles_what_engines_have_skips_the_rest_and_says_so():
    with live_server() as live:
        stream = Scan(live, defaults=STOP)
        with live.frozen():
            stream.send(WEB)
            until(lambda: live.accepted > 2)
            idle = Scan(live, camera_id="idle")
            idle.next("heartbeat")
            stopping = threading.Thread(target=live.server.stop)
            stopping.start()
            until(lambda: live.session("web") is None or live.session("web")._stopping)
        events = stream.until("summary")
        stopping.join(WAIT_S)
        assert stream.code() is idle.code() is grpc.StatusCode.UNAVAILABLE
        assert stream.call.details() == "the server is being stopped"
        assert events[-1].summary.rows == ROWS
        skipped = [event.skipped for event in events if event.HasField("skipped")]
        assert {each.status for each in skipped} == {pb.FRAME_STATUS_REFUSED}
        assert skipped[-1].first_row + skipped[-1].rows == ROWS
        assert skipped[-1].gate == pb.GATE_STOP
        assert 0 < events[-1].summary.rows_skipped < ROWS


def test_a_drained_server_skips_the_rows_of_its_streams():
    with live_server() as live:
        stream = Scan(live, defaults=STOP)
        stream.next("heartbeat")
        live.server.drain()
        stream.send(WEB[:96])
        skipped = stream.next("skipped")
        assert (skipped.status, skipped.rows) == (pb.FRAME_STATUS_REFUSED, 96)
        assert skipped.reason == "the server is drained: it takes no new frames"
        stream.close()
