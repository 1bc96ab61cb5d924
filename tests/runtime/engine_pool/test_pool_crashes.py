"""Engines that die, hang or do not start: no frame is lost, and none takes others with it."""

import json
import logging
import os
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

import pytest

from agvas_runtime.bundle import default_bundle_path
from agvas_runtime.errors import EngineLost
from agvas_runtime.manifest import content_digest
from agvas_runtime.segmenter import Segmenter
from agvas_runtime.server.engine.supervision import pause_s
from agvas_runtime.server.engine.task import EngineSpec
from agvas_runtime.server.lanes import Fate, Ticket
from tests.runtime.engine_pool.line import (
    IMAGES,
    SHORT,
    WAIT_S,
    assert_answers,
    failure,
    held,
    running,
    until,
)


def test_a_frame_is_answered_as_the_segmenter_answers_it(line, expected):
    ticket = line.offered(image=1)
    answered = assert_answers(ticket, expected[1])
    assert answered.facts is line.pool.facts
    assert 0 < answered.queue_ms < (perf_counter() - ticket.queued) * 1000


def test_eight_cameras_lose_no_frame_though_the_engine_is_killed_three_times(line, expected):
    """Every frame is answered once, and right: a killed engine's go to the next one."""
    answers, kills, restarts = threading.Semaphore(0), [], line.pool.engines()[0].restarts

    def camera(number: int) -> list[tuple[Ticket, int]]:
        lane = line.lanes.open(f"camera {number}", "block", 2)
        tickets = []
        for frame in range(6):
            image = (number + frame) % len(IMAGES)
            ticket = line.ticket(image=image)
            ticket.outcome.add_done_callback(lambda _: answers.release())
            lane.offer(ticket)
            tickets.append((ticket, image))
        return tickets

    with ThreadPoolExecutor(8) as cameras:
        work = [cameras.submit(camera, number) for number in range(8)]
        for answered in range(48):
            assert answers.acquire(timeout=WAIT_S)
            if answered in (9, 21, 33):
                kills.append(line.pid)
                line.kill()
                until(lambda: line.pool.facts.pid != kills[-1])
        for ticket, image in (each for done in work for each in done.result()):
            assert_answers(ticket, expected[image])
    assert not answers.acquire(blocking=False)
    assert len(set(kills)) == 3
    assert line.pool.engines()[0].restarts == restarts + 3
    assert "killed by signal 9" in line.pool.engines()[0].last_death


def test_a_frame_in_flight_goes_to_the_next_engine(line, expected):
    ticket, before = line.in_flight(), line.pid
    line.kill()
    assert assert_answers(ticket, expected[0]).facts.pid != before
    assert ticket.attempts == 1
    assert [ready for ready, _ in line.changes] == [False, True]
    assert line.changes[0][1].startswith("the engine is not ready: it died: killed by signal 9")
    assert line.changes[1][1] == ""


def test_an_engine_that_dies_without_a_frame_is_started_again(line):
    before = line.pid
    line.kill()
    until(lambda: line.pool.ready and line.pid != before)


def test_a_frame_that_finds_its_engine_dead_waits_for_the_next_one(line, expected):
    """It was killed between two frames, and the pool may not know it yet."""
    (engine,) = line.pool.spawn(line.spec)
    engine.wait_ready()
    line.pool.replace([engine], line.spec)
    engine.kill()
    until(lambda: not engine.alive)
    ticket = line.offered()
    assert assert_answers(ticket, expected[0]).facts.pid != engine.pid
    assert ticket.attempts == 0


def test_a_frame_that_two_engines_die_on_is_given_up_and_takes_no_other_with_it(line, expected):
    """The next engine stands still as soon as it is ready: it has the retried frame then, and no other."""
    ticket, before = line.in_flight(), line.pid
    others = [line.offered(image=image) for image in (1, 2)]
    once = iter([True])
    line.on_change = lambda: line.pool.ready and next(once, False) and os.kill(line.pid, signal.SIGSTOP)
    line.kill()
    until(lambda: line.pid != before and line.lanes.waiting == len(others))
    line.kill()
    error = failure(ticket)
    assert error.fate is Fate.ENGINE_FAILED
    assert str(error) == "the engine died twice on this frame, the last time: killed by signal 9"
    for other, image in zip(others, (1, 2), strict=True):
        assert_answers(other, expected[image])
        assert other.attempts == 0


def test_an_engine_that_hangs_is_killed_and_its_frame_retried(expected):
    with running(hang_s=3.0) as line:
        ticket, before = line.in_flight(), line.pid
        assert assert_answers(ticket, expected[0]).facts.pid != before
        assert line.pool.engines()[0].last_death == "it died: no answer for 3 s"


def test_a_crash_loop_backs_off_says_why_and_ends_once_its_cause_is_gone(tmp_path, expected, caplog):
    """The bundle vanishes under a running server, and comes back."""
    bundle, away = tmp_path / "bundle", tmp_path / "away"
    shutil.copytree(default_bundle_path(), bundle)
    caplog.set_level(logging.WARNING, "agvas.engine")
    with running(spec=EngineSpec(bundle, threads=1)) as line:
        bundle.rename(away)
        ticket = line.in_flight()
        waiting = line.offered()
        line.kill()
        for each in (ticket, waiting):
            assert failure(each).fate is Fate.ENGINE_FAILED
            assert "it could not start: " in str(failure(each))
            assert "3 times in a row without an answer; next start at" in str(failure(each))
        assert not line.pool.ready
        assert str(bundle) in line.pool.reason
        at_once = line.offered()
        assert at_once.outcome.done()
        assert failure(at_once).fate is Fate.ENGINE_FAILED
        with pytest.raises(EngineLost, match="could not start"), held(line) as block:
            next(line.pool.stream(block, SHORT))
        away.rename(bundle)
        until(lambda: line.pool.ready)
        assert_answers(line.offered(), expected[0])
        line.kill()
        assert_answers(line.offered(), expected[0])  # the deaths are forgotten: it waits for the next engine
    assert "pid" in caplog.messages[0]
    assert "killed by signal 9; next start now" in caplog.messages[0]
    assert "could not start" in caplog.messages[1]
    assert "2 times in a row without an answer; next start at" in caplog.messages[1]
    assert caplog.messages[-1].endswith("killed by signal 9; next start now")


def test_a_bundle_that_was_changed_in_its_folder_is_not_taken_for_the_one_that_is_served(tmp_path, expected):
    bundle = tmp_path / "bundle"
    shutil.copytree(default_bundle_path(), bundle)
    manifest = bundle / "manifest.json"
    served = manifest.read_text()
    with running(spec=EngineSpec(bundle, threads=1)) as line:
        sha256 = line.pool.facts.bundle_sha256
        other = {**json.loads(served), "name": "another"}
        manifest.write_text(json.dumps({**other, "content_sha256": content_digest(other)}))
        Segmenter.open(bundle, threads=1).close()  # it is a whole bundle
        line.kill()
        until(lambda: not line.pool.ready and "could not start" in line.pool.reason)
        assert f"{bundle}: the bundle was changed under the server: found " in line.pool.reason
        assert f"expected {sha256[:12]}; swap to it" in line.pool.reason
        manifest.write_text(served)
        until(lambda: line.pool.ready)
        assert_answers(line.offered(), expected[0])
        assert line.pool.facts.bundle_sha256 == sha256


def test_pauses_double_up_to_half_a_minute():
    assert [pause_s(deaths) for deaths in range(1, 6)] == pytest.approx([0, 0.2, 0.4, 0.8, 1.6])
    assert pause_s(9) == pytest.approx(25.6)
    assert pause_s(10) == pause_s(100_000) == 30
