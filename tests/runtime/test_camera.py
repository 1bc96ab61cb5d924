"""`agvas-camera play` against a real server."""

import json
import shutil

import pytest

from agvas_runtime.camera import report
from agvas_runtime.camera.cli import app
from agvas_runtime.camera.player import Playback, play
from agvas_runtime.camera.session import run_playback
from agvas_runtime.client import Client
from agvas_runtime.console import run
from agvas_runtime.errors import EngineError
from agvas_runtime.frames import read_image
from agvas_runtime.verdict import Verdict


@pytest.fixture
def camera(capsys, server):
    """Runs `agvas-camera play` against the server; returns (exit code, stdout, stderr)."""

    def call(*arguments: object, address: str = f"127.0.0.1:{server.port}") -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            run(app, ["play", *map(str, arguments), "--server", address])
        out, err = capsys.readouterr()
        return caught.value.code, out, err

    return call


@pytest.fixture
def folder(photo, tmp_path):
    """Three image files, one of them broken."""
    for name in ("a.jpg", "c.jpg"):
        shutil.copy(photo, tmp_path / name)
    (tmp_path / "b.jpg").write_bytes(photo.read_bytes()[:300])
    return tmp_path


def test_every_frame_gets_one_answer_with_its_number(client, photo):
    shots = list(play(client, Playback([photo], count=4, camera_id="left")))
    assert [shot.sequence for shot in shots] == [0, 1, 2, 3]
    identities = [shot.reply.identity for shot in shots]
    assert [identity.sequence for identity in identities] == [0, 1, 2, 3]
    assert {identity.camera_id for identity in identities} == {"left"}
    times = [identity.capture_time for identity in identities]
    assert times == sorted(times)


def test_a_raw_frame_gives_the_answer_of_its_file(client, photo):
    (encoded,), (raw,) = (play(client, Playback([photo], count=1, raw=raw)) for raw in (False, True))
    assert (raw.reply.mask == encoded.reply.mask).all()


def test_the_table_has_a_line_a_frame_and_ends_with_percentiles(camera, folder):
    code, out, err = camera(folder, "--count", "5", "--fps", "200")
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert [line.split()[1] for line in lines[1:6]] == ["a.jpg", "b.jpg", "c.jpg", "a.jpg", "b.jpg"]
    assert lines[6].split()[0] == "p50"
    assert lines[7].split()[0] == "p99"
    assert lines[8].startswith("5 frames: ")
    assert "nan" not in out  # every column is a stage that the server names


def test_a_frame_that_cannot_be_read_is_no_answer_and_the_play_goes_on(camera, folder):
    code, out, _ = camera(folder, "--json")
    found = json.loads(out)
    assert code == 0
    assert [frame["file"].endswith("b.jpg") for frame in found["frames"]] == [False, True, False]
    broken = found["frames"][1]
    assert broken["verdict"] == Verdict.NO_ANSWER.value
    assert "frame.encoded: truncated" in broken["error"]
    assert found["verdicts"]["NO_ANSWER"] >= 1
    assert found["latency_ms"]["round_trip"]["p50"] > 0


def test_overlays_are_written_once_a_file(camera, folder, photo, tmp_path):
    code, _, _ = camera(folder, "--count", "6", "--out", tmp_path / "out")
    assert code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a_overlay.png", "c_overlay.png"]
    assert read_image(tmp_path / "out" / "a_overlay.png").shape[1] == read_image(photo).shape[1]


def test_a_folder_without_images_is_exit_code_2(camera, tmp_path):
    code, _, err = camera(tmp_path)
    assert code == 2
    assert err.startswith(f"error: {tmp_path}: no images in this folder")


def test_no_server_is_one_line_with_exit_code_1(camera, photo, monkeypatch):
    wait_ready = Client.wait_ready
    monkeypatch.setattr(Client, "wait_ready", lambda client, timeout_s: wait_ready(client, timeout_s=timeout_s / 50))
    code, out, err = camera(photo, address="127.0.0.1:1")
    assert (code, out) == (1, "")
    assert err.startswith("error: 127.0.0.1:1: not ready after")
    assert err.count("\n") == 1


@pytest.mark.parametrize(("error", "code"), [(EngineError("disk: full"), 1), (KeyboardInterrupt(), 130)])
def test_what_was_played_is_reported_however_it_ends(camera, folder, tmp_path, monkeypatch, error, code):
    def fail(*_):
        raise error

    monkeypatch.setattr(report, "write_overlay", fail)
    left, out, _ = camera(folder, "--json", "--out", tmp_path / "out")
    assert left == code
    assert [frame["file"] for frame in json.loads(out)["frames"]] == [str(folder / "a.jpg")]


@pytest.mark.parametrize("overlays", [False, True])
def test_masks_come_for_overlays_only_and_are_not_kept(client, photo, tmp_path, monkeypatch, overlays):
    segment, replies = Client.segment, []

    def seen(*args, **asked):
        replies.append(segment(*args, **asked))
        return replies[-1]

    monkeypatch.setattr(Client, "segment", seen)
    shots = run_playback(client, Playback([photo], count=2), tmp_path if overlays else None, as_json=True)
    assert [reply.mask is not None for reply in replies] == [overlays] * 2
    assert [(shot.reply.mask, shot.reply.groups) for shot in shots] == [(None, ())] * 2
    assert [shot.reply.defect_area_px for shot in shots] == [reply.defect_area_px for reply in replies]


def test_where_no_frame_has_an_answer_the_exit_code_says_so(camera, folder, monkeypatch):
    code, out, err = camera(folder, "--recipe", "absent")
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("error: recipe_name: found 'absent'")
    assert "3 NO_ANSWER" in out

    def fail(*_, **__):
        raise EngineError("graph llm: out of memory")

    monkeypatch.setattr(Client, "segment", fail)
    code, _, err = camera(folder)
    assert (code, err) == (1, "error: graph llm: out of memory\n")
