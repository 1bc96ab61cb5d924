"""Cameras without hardware, each from its frames to the server's answers: what is not installed is skipped by name."""

from contextlib import closing
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from agvas_runtime.camera import gentl, pylon
from agvas_runtime.camera.addresses import open_source
from agvas_runtime.camera.folder import FolderSource
from agvas_runtime.camera.outputs import rgb_of
from agvas_runtime.camera.pfnc import FORMATS, format_of, raw_frame
from agvas_runtime.camera.source import CaptureOptions, Pace, SourceLostError
from agvas_runtime.errors import InputError
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.wire import RawFrame
from tests.runtime.camera_line import first_frames, gige_camera, needs, one_decision_each, rtsp_server, running


@pytest.fixture
def address(server):
    return f"127.0.0.1:{server.port}"


def source_of(address: str, **options):
    return open_source(address, CaptureOptions(**options))[1]


def first_good(source):
    """The first captured frame that is complete."""
    stopping = Event()
    with closing(source.frames(stopping)) as frames:
        return next(captured for captured in frames if not captured.broken)


def sizes(decisions) -> set[tuple[int, int]]:
    return {decision.reply.size for decision in decisions if decision.status == "ok"}


def behind_broken(statuses: list[str], count: int) -> list[str]:
    """What became of the parts that were decided after so many invalid ones."""
    places = [place for place, status in enumerate(statuses) if status == "invalid"]
    return statuses[places[count - 1] :] if len(places) >= count else []


def test_a_gige_vision_camera_goes_to_a_verdict_by_software_trigger(address):
    with gige_camera():
        source = source_of(
            "gige:GV01", trigger="software", fps=10, features={"PixelFormat": "BayerRG8", "Width": "256"}
        )
        with running(source, address, policy="block", keep_images=True) as line:
            line.until(lambda: line.statuses.count("ok") >= 6)
        decisions = sorted(line.decisions, key=lambda decision: decision.sequence)
        assert one_decision_each(decisions, line.line.gate.parts)
        assert set(line.statuses) <= {"ok", "invalid"}  # a loaded machine may lose packets even here
        good = [decision for decision in decisions if decision.status == "ok"]
        assert {decision.image.pixel_format for decision in good} == {"BAYER_RG8"}
        assert sizes(good) == {(512, 256)}
        numbers = [int(decision.trigger_id) for decision in decisions]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        # The camera is free again, and gives 16 bits a pixel just as well.
        free = source_of("gige:GV01", features={"PixelFormat": "Mono16", "Width": "512"})
        assert first_good(free).image.pixel_format == "MONO16"
        with pytest.raises(SourceLostError, match="gige:GV02: found the cameras GV01, expected GV02"):
            first_frames(source_of("gige:GV02"), 1)
        with pytest.raises(InputError, match="gige:GV01: Nope: found 3, which the camera refuses"):
            first_frames(source_of("gige:GV01", features={"Nope": "3"}), 1)


def test_frames_with_lost_packets_are_invalid_and_the_stream_lives_on(address):
    with gige_camera("-r", "3"):  # of 1000 packets, which is every third frame or so
        source = source_of("gige:GV01")
        with running(source, address, on_no_answer="stop") as line:
            line.until(lambda: "ok" in behind_broken(line.statuses, 3))
    decisions = line.decisions
    assert one_decision_each(decisions, line.line.gate.parts)
    assert {decision.status for decision in decisions} <= {"ok", "invalid", "dropped"}
    broken = [decision for decision in decisions if decision.status == "invalid"]
    assert {(decision.gate, decision.verdict.value) for decision in broken} == {("stop", "NO_ANSWER")}
    assert "the frame is not complete: missing packets" in {decision.reason for decision in broken}
    assert [turn.up for turn in line.turns] == [True, True]  # neither camera nor server was lost


def test_a_gentl_producer_goes_to_a_verdict(address):
    needs("harvesters")
    source = source_of("gentl:viky.cti#1")
    with running(source, address, policy="block", count=5, keep_images=True) as line:
        decisions = line.finish()
    assert one_decision_each(decisions, 5)
    assert {decision.status for decision in decisions} == {"ok"}
    assert sizes(decisions) == {(400, 400)}
    assert {decision.image.pixel_format for decision in decisions} == {"RGBA8"}
    red, green, blue = rgb_of(decisions[0].image).reshape(-1, 3).mean(axis=0)
    assert green > max(red, blue)  # the camera is called "green"
    (grey,) = first_frames(source_of("gentl:viky.cti#1", features={"PixelFormat": "Mono8"}), 1)
    assert (grey.image.pixel_format, len(grey.image.data)) == ("MONO8", 160_000)


def test_an_incomplete_buffer_of_a_gentl_producer_is_one_part(monkeypatch):
    needs("harvesters")
    genicam = pytest.importorskip("genicam.gentl")
    is_complete, asked = genicam.Buffer.is_complete, []

    def third_is_not(buffer):
        asked.append(buffer)
        return is_complete(buffer) and len(asked) != 3

    monkeypatch.setattr(genicam.Buffer, "is_complete", third_is_not)
    found = first_frames(source_of("gentl:viky.cti#1"), 6)
    assert "the producer delivered an incomplete buffer" in [each.broken for each in found]
    first = int(found[0].trigger_id)
    numbers = {place: int(each.trigger_id) - first for place, each in enumerate(found) if each.trigger_id}
    assert numbers == {place: place for place in numbers}
    assert len(numbers) == len(found) - 1


def test_what_a_gentl_producer_has_not_got_is_said():
    needs("harvesters")
    with pytest.raises(SourceLostError, match=r"gentl:viky.cti#9: found the cameras 0, 1, 2, expected 9"):
        first_frames(source_of("gentl:viky.cti#9"), 1)
    with pytest.raises(InputError, match="Nope: the camera has no such feature"):
        first_frames(source_of("gentl:viky.cti", features={"Nope": "3"}), 1)
    with pytest.raises(InputError, match=r"gentl:absent.cti: no such producer; searched"):
        source_of("gentl:absent.cti")


def test_a_pylon_camera_goes_to_a_verdict_and_a_failed_grab_is_invalid(address, monkeypatch):
    needs("pypylon")
    monkeypatch.setenv("PYLON_CAMEMU", "2")
    features = {"Width": "320", "Height": "240", "PixelFormat": "BayerGB12"}
    failing = {"ForceFailedBufferCount": "2", "ForceFailedBuffer": "1"}
    source = source_of("pylon:0815-0001", trigger="software", fps=20, features={**features, **failing})
    with running(source, address, policy="block", count=6, keep_images=True) as line:
        decisions = sorted(line.finish(), key=lambda decision: decision.sequence)
    assert one_decision_each(decisions, 6)
    assert [decision.status for decision in decisions] == ["invalid"] * 2 + ["ok"] * 4
    assert decisions[0].reason == "the grab failed: The buffer was incompletely grabbed."
    assert sizes(decisions) == {(240, 320)}
    assert decisions[-1].image.pixel_format == "BAYER_GB12"
    with pytest.raises(SourceLostError, match="pylon:7: found the cameras 0815-0000, 0815-0001, expected 7"):
        first_frames(source_of("pylon:7"), 1)
    with pytest.raises(InputError, match="PixelFormat: found Blue, which the camera refuses"):
        first_frames(source_of("pylon:", features={"PixelFormat": "Blue"}), 1)


def test_an_rtsp_stream_goes_to_a_verdict_and_is_opened_again_when_it_was_lost(address):
    needs("cv2")
    with rtsp_server() as (process, port):
        source = source_of(f"rtsp://127.0.0.1:{port}/line")
        with running(source, address) as line:
            line.until(lambda: line.statuses.count("ok") >= 3)
            process.kill()
            process.wait()
            line.until_turn("camera", False)
            with rtsp_server(port):
                answered = line.statuses.count("ok")
                line.until(lambda: line.statuses.count("ok") >= answered + 3)
                line.line.stop()
                line.finish()
    assert one_decision_each(line.decisions, line.line.gate.parts)
    assert sizes(line.decisions) == {(120, 160)}
    assert [turn.up for turn in line.turns if turn.what == "camera"] == [True, False, True]


def test_a_video_file_goes_to_verdicts_picture_by_picture(address, tmp_path):
    cv2 = needs("cv2")
    path = tmp_path / "line.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 50, (160, 120))
    for grey in range(20, 200, 20):
        writer.write(np.full((120, 160, 3), (grey, 20, 20), np.uint8))
    writer.release()
    with running(source_of(str(path), fps=0), address, policy="block", keep_images=True) as line:
        decisions = line.finish()
    assert one_decision_each(decisions, 9)
    assert {decision.status for decision in decisions} == {"ok"}
    blues = [float(rgb_of(decision.image)[..., 2].mean()) for decision in decisions]
    assert np.allclose(blues, range(20, 200, 20), atol=6)
    (tmp_path / "none.avi").write_bytes(b"no video")
    with pytest.raises(InputError, match=r"none.avi: no video that OpenCV can read"):
        first_frames(source_of(str(tmp_path / "none.avi")), 1)


def test_a_folder_gives_its_files_as_they_are_and_says_which_it_cannot_read(photo, tmp_path):
    for name in ("b.jpg", "a.jpg"):
        (tmp_path / name).write_bytes(photo.read_bytes())
    source = FolderSource(tmp_path, CaptureOptions(fps=0, loop=True))
    (tmp_path / "b.jpg").unlink()
    good, bad, again = first_frames(source, 3)
    assert (good.part_id, good.image) == ("a.jpg", photo.read_bytes())
    assert (bad.part_id, bad.image, bad.broken) == ("b.jpg", None, f"{tmp_path / 'b.jpg'}: No such file or directory")
    assert again.part_id == "a.jpg"


def test_every_format_of_cameras_has_its_name_in_the_protocol():
    known = {name.removeprefix("PIXEL_FORMAT_") for name in pb.PixelFormat.keys()[1:]}
    assert set(FORMATS.values()) == known
    assert format_of("BayerRG12") == "BAYER_RG12"
    with pytest.raises(InputError, match="PixelFormat: found Coord3D_C16, expected one of Mono8"):
        format_of("Coord3D_C16")


def test_padding_behind_rows_is_a_stride_and_what_follows_the_picture_is_left_out():
    assert raw_frame(b"x" * 100, 3, 4, "MONO12P") == RawFrame(b"x" * 20, 3, 4, "MONO12P", 0)
    assert raw_frame(b"x" * 100, 3, 4, "MONO12P", 3) == RawFrame(b"x" * 32, 3, 4, "MONO12P", 8)


@pytest.mark.parametrize(
    ("address", "camera_id"),
    [("{folder}", "parts"), ("left={folder}", "left"), ("folder:{folder}", "parts"), ("{folder}/a.jpg", "a")],
)
def test_a_camera_has_the_id_that_it_is_given_or_one_of_its_address(address, camera_id, photo, tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(photo.read_bytes())
    assert open_source(address.format(folder=folder), CaptureOptions())[0] == camera_id


def test_a_stream_s_password_is_not_shown():
    needs("cv2")
    camera_id, source = open_source("rtsp://user:secret@10.0.0.7:554/line?token=secret", CaptureOptions())
    assert (camera_id, source.name) == ("10.0.0.7-line", "rtsp://10.0.0.7:554/line")
    assert open_source("RTSP://user:secret@10.0.0.7:554/line", CaptureOptions())[1].name == source.name


@pytest.mark.parametrize(
    ("address", "options", "text"),
    [
        ("no/such/place", {}, "no/such/place: no such camera, file or folder; expected gige:ID, gentl:"),
        ("usb:7", {}, "usb:7: no such camera"),
        ("rtmp://admin:secret@cam/live", {}, "rtmp://cam/live: no such camera"),
        ("left=rtmp://admin:s@cret@cam/live", {}, "rtmp://cam/live: no such camera"),
        ("gentl:", {}, "gentl: found no producer, expected gentl:FILE.cti"),
        ("{here}", {"trigger": "Line1"}, "found --trigger or --set, expected neither"),
        ("{here}", {"features": {"Width": "8"}}, "found --trigger or --set, expected neither"),
    ],
)
def test_what_is_no_camera_is_refused(address, options, text):
    with pytest.raises(InputError) as caught:
        open_source(address.format(here=Path(__file__).parent), CaptureOptions(**options))
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"trigger": "software", "loop": True}, "found --loop, expected none: a camera never ends"),
        ({"trigger": "Line1", "loop": True}, "found --loop, expected none"),
        ({"trigger": "Line1", "fps": 4}, "found --fps, expected none without --trigger software"),
        ({"features": {"TriggerMode": "On"}, "fps": 4}, "found --fps, expected none without --trigger software"),
    ],
)
def test_a_triggered_camera_never_ends_and_its_input_sets_its_pace(options, text):
    with pytest.raises(InputError, match=f"gige:GV01: {text}"):
        open_source("gige:GV01", CaptureOptions(**options))


@pytest.mark.parametrize("address", ["gige:", "gentl:viky.cti", "pylon:7", "rtsp://10.0.0.7/line"])
@pytest.mark.parametrize("options", [{"fps": 0}, {"fps": 4}, {"loop": True}])
def test_who_runs_at_its_own_pace_takes_no_other(address, options):
    with pytest.raises(InputError, match=f"{address}: found --fps or --loop, expected neither"):
        open_source(address, CaptureOptions(**options))


@pytest.mark.parametrize(("module", "needed"), [(gentl, "harvesters"), (pylon, "pypylon")])
def test_software_triggers_can_do_without_a_pause(module, needed, monkeypatch):
    needs(needed)
    monkeypatch.setenv("PYLON_CAMEMU", "2")
    paces, options = [], CaptureOptions(fps=0)
    monkeypatch.setattr(module, "Pace", lambda fps: paces.append(fps) or Pace(fps))
    source = gentl.GenTLSource("viky.cti", "1", options) if module is gentl else pylon.PylonSource("", options)
    first_frames(source, 1)
    assert paces == [0]


def test_an_address_that_is_no_url_is_refused_without_its_password():
    with pytest.raises(InputError, match=r"address: found one that is no URL .*expected rtsp://HOST/PATH") as caught:
        open_source("rtsp://user:secret@[::1/x", CaptureOptions())
    assert "secret" not in str(caught.value)
