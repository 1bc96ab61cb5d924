"""Several frames, several engines, other engines, and the end of all."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from agvas_runtime.bundle import default_bundle_path
from agvas_runtime.errors import BundleError, EngineLost, InputError
from agvas_runtime.server.engine import idle
from agvas_runtime.server.engine.pool import STOPPED
from agvas_runtime.server.engine.task import EngineSpec
from agvas_runtime.server.lanes import Answered, Fate, Ticket
from tests.runtime.engine_pool.line import (
    IMAGES,
    LONG,
    OUTSIDE,
    WAIT_S,
    Line,
    alive,
    assert_answers,
    assert_answers_any,
    assert_nearest,
    failure,
    held,
    running,
    said,
    until,
)


def test_frames_wait_together_and_are_segmented_together_where_that_pays(line, expected):
    line.pool.facts.ms_per_frame.update({4: 0.0})
    first = line.in_flight()
    others = [line.offered(image=image) for image in (1, 2, 3)]
    os.kill(line.pid, signal.SIGCONT)
    assert_answers(first, expected[0])
    timings = [list(said(assert_nearest(each, image, expected)).timings) for image, each in enumerate(others, 1)]
    assert timings[0] == timings[1] == timings[2]
    del line.pool.facts.ms_per_frame[4]


def test_a_frame_that_a_graph_fails_on_spoils_no_other_of_its_batch(line, expected):
    line.pool.facts.ms_per_frame.update({4: 0.0})
    first = line.in_flight()
    one, bad, two = line.offered(image=1), line.offered(OUTSIDE), line.offered(image=2)
    os.kill(line.pid, signal.SIGCONT)
    assert_answers(first, expected[0])
    assert_answers(one, expected[1])
    assert_answers(two, expected[2])
    with pytest.raises(InputError, match="roi"):
        bad.outcome.result(WAIT_S)
    assert bad.attempts == 0
    assert line.changes == []
    del line.pool.facts.ms_per_frame[4]


def test_an_observer_sees_every_answered_frame_before_its_caller_and_may_fail(line, expected):
    seen = []

    def observe(ticket: Ticket, answered: Answered) -> None:
        seen.append((ticket, answered.block.image.copy(), ticket.outcome.done()))
        raise ZeroDivisionError

    line.pool.observe = observe
    ticket = line.offered(image=1)
    assert_answers(ticket, expected[1])
    ((of, image, done),) = seen
    assert of is ticket
    assert not done
    assert np.array_equal(image, IMAGES[1])


def test_other_engines_take_over_without_a_frame_lost(line, expected):
    before, images = line.pid, [number % len(IMAGES) for number in range(30)]
    with ThreadPoolExecutor(1) as camera:
        tickets = camera.submit(lambda: [line.offered(image=image) for image in images])
        spec = EngineSpec(default_bundle_path(), threads=1)
        candidates = line.pool.spawn(spec)
        for each in candidates:
            each.wait_ready()
        line.changes.clear()
        line.pool.replace(candidates, spec)
        after = line.offered()
        for ticket, image in zip(tickets.result(WAIT_S), images, strict=True):
            assert_answers(ticket, expected[image])
    assert assert_answers(after, expected[0]).facts.pid == line.pid == candidates[0].facts.pid != before
    assert line.changes == [(True, "")]
    until(lambda: not alive(before))


def test_an_old_engine_that_dies_while_it_finishes_leaves_its_frame_to_the_new_one(line, expected):
    ticket, before = line.in_flight(), line.pid
    candidates = line.pool.spawn(line.spec)
    candidates[0].wait_ready()
    line.pool.replace(candidates, line.spec)
    os.kill(before, signal.SIGKILL)
    assert assert_answers(ticket, expected[0]).facts.pid == candidates[0].facts.pid
    assert line.pool.ready
    assert line.pool.engines()[0].restarts == 0


def test_one_engine_of_two_goes_on_while_the_other_is_started_again(expected):
    with running(devices=("0", "1")) as line:
        until(lambda: all(state.ready for state in line.pool.engines()))
        killed, other = line.pool.engines()
        os.kill(killed.pid, signal.SIGKILL)
        until(lambda: line.pool.engines()[0].pid != killed.pid)
        assert_answers(line.offered(), expected[0])
        assert line.pool.ready
        until(lambda: line.pool.engines()[0].ready)
        assert not any("not ready" in reason for _, reason in line.changes)
        assert [state.device for state in line.pool.engines()] == ["0", "1"]
        assert [state.restarts for state in line.pool.engines()] == [1, 0]
        assert line.pool.engines()[1].pid == other.pid


def test_engines_on_one_device_keep_each_its_own_history_when_others_take_over():
    with running(devices=("", "")) as line:
        until(lambda: all(state.ready for state in line.pool.engines()))
        first, second = (dispatcher.engine for dispatcher in line.pool._dispatchers)
        first.restarts, first.last_death, second.restarts = 3, "killed by signal 9", 1
        candidates = line.pool.spawn(line.spec)
        for candidate in candidates:
            candidate.wait_ready(WAIT_S)
        line.pool.replace(candidates, line.spec)
        told = [(state.restarts, state.last_death) for state in line.pool.engines()]
        assert told == [(3, "killed by signal 9"), (1, "")]


def test_memory_is_given_back_while_no_frames_come(line, monkeypatch):
    def pages() -> int:
        return os.fstat(line.arena.fd).st_blocks

    assert_answers_any(line.offered())
    assert pages() > 0
    monkeypatch.setattr(idle, "IDLE_S", 0.0)
    until(lambda: pages() == 0)


def test_a_stop_answers_what_runs_and_what_waits_and_what_comes():
    with running() as line:
        running_one, waiting = line.in_flight(), line.offered()
        line.pool.stop(0.1)
        assert {failure(each).fate for each in (running_one, waiting, line.offered())} == {Fate.REFUSED}
        assert line.pool.reason == STOPPED
        with held(line) as block, pytest.raises(EngineLost, match=STOPPED):
            next(line.pool.stream(block, LONG))


def test_a_stop_lets_the_engine_finish_what_it_has(expected):
    with running() as line:
        ticket, waiting = line.in_flight(), line.offered()
        with ThreadPoolExecutor(1) as other:
            stopping = other.submit(line.pool.stop, WAIT_S)
            assert failure(waiting).fate is Fate.REFUSED
            os.kill(line.pid, signal.SIGCONT)
            stopping.result(WAIT_S)
        assert_answers(ticket, expected[0])


def test_what_the_first_start_meets_is_raised_and_nothing_is_left(tmp_path):
    line = Line(spec=EngineSpec(tmp_path / "none"))
    with pytest.raises(BundleError, match="none"):
        line.pool.start()
    assert [(state.device, state.pid, state.ready) for state in line.pool.engines()] == [("", 0, False)]
    assert not line.pool.ready


def test_a_stop_ends_the_first_start():
    line = Line()
    with ThreadPoolExecutor(1) as other:
        starting = other.submit(line.pool.start)
        line.pool.stop(1)
        with pytest.raises(EngineLost, match=STOPPED):
            starting.result(WAIT_S)
