"""The engines of a server, as real processes that are really killed: no frame is lost, and none is answered twice."""

import json
import logging
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from time import monotonic, perf_counter

import numpy as np
import pytest
from PIL import Image

from agvas_runtime.bundle import default_bundle_path
from agvas_runtime.errors import BundleError, Cancelled, EngineLost, InputError
from agvas_runtime.manifest import content_digest
from agvas_runtime.modes import Mode, Request
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.result import Result
from agvas_runtime.segmenter import Segmenter, Text
from agvas_runtime.server.engine import idle
from agvas_runtime.server.engine.arena import Arena
from agvas_runtime.server.engine.dispatch import MOST_STREAMS
from agvas_runtime.server.engine.pool import STOPPED, EnginePool
from agvas_runtime.server.engine.supervision import pause_s
from agvas_runtime.server.engine.task import EngineSpec, FrameResult, Task
from agvas_runtime.server.lanes import Answered, Fate, Lanes, NoResult, Ticket
from agvas_runtime.verdict import Recipe
from agvas_runtime.writer import Decoding
from tests.conftest import DEMO_FRAMES

IMAGES = [np.asarray(Image.open(path).convert("RGB").resize((120, 90))) for path in sorted(DEMO_FRAMES.glob("*.jpg"))]
SHORT = Task(probability=True)
LONG = Task(Request(Mode.DESCRIBE), decoding=Decoding(temperature=10, seed=9, max_new_tokens=300), probability=True)
OUTSIDE = Task(recipe=Recipe(roi=(500, 500, 600, 600)))
"""A region that no image here has: the segmenter refuses it."""
ONE_THREAD = EngineSpec(threads=1)
WAIT_S = 60


def until(condition: Callable[[], object]) -> None:
    """Wait until it is true."""
    end, pause = monotonic() + WAIT_S, threading.Event()
    while not condition():
        assert monotonic() < end
        pause.wait(0.005)


@dataclass
class Line:
    """A pool with its lanes and its memory, and what its tests want of it."""

    spec: EngineSpec = ONE_THREAD
    devices: tuple[str, ...] = ("",)
    hang_s: float = 60.0
    changes: list[tuple[bool, str]] = field(default_factory=list)
    on_change: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.arena, self.lanes = Arena(64 << 20), Lanes()
        self.pool = EnginePool(
            self.spec, self.lanes, self.arena, devices=self.devices, hang_s=self.hang_s, on_change=self._changed
        )
        self.lane = self.lanes.open("camera", "block", 8)

    def _changed(self) -> None:
        self.changes.append((self.pool.ready, self.pool.reason))
        self.on_change()

    @property
    def pid(self) -> int:
        return self.pool.facts.pid

    def ticket(self, task: Task = SHORT, image: int = 0) -> Ticket:
        return Ticket(self.arena.place(IMAGES[image], wait_s=WAIT_S), task)

    def offered(self, task: Task = SHORT, image: int = 0) -> Ticket:
        ticket = self.ticket(task, image)
        self.lane.offer(ticket)
        return ticket

    def in_flight(self, task: Task = SHORT) -> Ticket:
        """A frame that the engine has and does not finish, because it stands still."""
        os.kill(self.pid, signal.SIGSTOP)
        ticket = self.offered(task)
        until(lambda: self.lanes.waiting == 0)
        return ticket

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


@contextmanager
def running(**options) -> Iterator[Line]:
    """A pool that is ready; after that no frame holds memory any more, and no process is left."""
    line = Line(**options)
    try:
        line.pool.start()
        yield line
    finally:
        line.pool.stop(5)
    until(lambda: line.arena.free_bytes == line.arena.size)
    assert not any(alive(state.pid) for state in line.pool.engines())


@pytest.fixture(scope="module")
def shared() -> Iterator[Line]:
    with running() as line:
        yield line


@pytest.fixture
def line(shared: Line) -> Iterator[Line]:
    """One pool for many tests, whatever the one before did to it: it is ready, and has answered a frame."""
    until(lambda: shared.pool.ready)
    assert_answers_any(shared.offered())
    shared.changes.clear()
    yield shared
    shared.pool.observe = None
    shared.on_change = lambda: None
    assert shared.lanes.wait_drained(WAIT_S)


@pytest.fixture(scope="module")
def expected(segmenter: Segmenter) -> list[Result]:
    return [segmenter.segment(image) for image in IMAGES]


def alive(pid: int) -> bool:
    return pid != 0 and os.path.exists(f"/proc/{pid}")


def assert_answers(ticket: Ticket, expected: Result) -> Answered:
    """Its result is the segmenter's own; the block is given back."""
    answered = ticket.outcome.result(WAIT_S)
    assert answered.result.verdict == expected.verdict
    assert np.array_equal(answered.block.mask, expected.mask)
    assert np.array_equal(answered.block.probability, expected.probability)
    answered.block.release()
    return answered


def assert_answers_any(ticket: Ticket) -> None:
    ticket.outcome.result(WAIT_S).block.release()


def said(result: FrameResult) -> pb.SegmentResponse:
    return pb.SegmentResponse.FromString(result.reply)


def assert_nearest(ticket: Ticket, image: int, expected: list[Result]) -> FrameResult:
    """Of frames that are segmented together 8-bit scales are shared: the map is nearest to the frame's own."""
    answered = ticket.outcome.result(WAIT_S)
    off = [float(np.abs(answered.block.probability - each.probability).mean()) for each in expected]
    assert off.index(min(off)) == image
    answered.block.release()
    return answered.result


def failure(ticket: Ticket) -> NoResult:
    error = ticket.outcome.exception(WAIT_S)
    assert isinstance(error, NoResult)
    return error


@contextmanager
def held(line: Line, image: int = 0) -> Iterator:
    """A block that the caller of `stream` holds."""
    block = line.arena.place(IMAGES[image])
    try:
        yield block
    finally:
        block.release()


def texts(events) -> str:
    return "".join(event.text for event in events if isinstance(event, Text))


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


def test_a_long_answer_does_not_hold_up_other_frames(line, expected):
    long = line.offered(LONG)
    for _ in range(3):
        assert_answers(line.offered(image=2), expected[2])
        assert not long.outcome.done()
    answered = long.outcome.result(WAIT_S)
    assert said(answered.result).tokens == 300
    answered.block.release()


def test_a_long_answer_is_retried_as_well(line):
    ticket = line.in_flight(LONG)
    line.kill()
    answered = ticket.outcome.result(WAIT_S)
    assert said(answered.result).tokens == 300
    assert ticket.attempts == 1
    answered.block.release()


def test_a_cancelled_answer_is_given_up_at_once(line):
    ticket = line.offered(LONG)
    until(lambda: line.lanes.waiting == 0)
    ticket.cancel()
    assert failure(ticket).fate is Fate.CANCELLED
    until(lambda: line.arena.free_bytes == line.arena.size)


def test_a_stream_goes_on_where_it_was_when_the_engine_dies(line):
    with held(line) as block:
        *undisturbed, result = line.pool.stream(block, LONG)
        with closing(line.pool.stream(block, LONG)) as events:
            begun = [next(events) for _ in range(5)]
            line.kill()
            *rest, again = events
    assert texts([*begun, *rest]) == texts(undisturbed) == said(result).answer
    assert len(begun) + len(rest) == len(undisturbed)
    assert said(again).answer == said(result).answer


def test_a_stream_is_lost_when_the_engine_dies_twice(line):
    with held(line) as block, closing(line.pool.stream(block, LONG)) as events:
        next(events)
        before = line.pid
        line.kill()
        while line.pid == before:  # the first one may still be of the killed engine
            next(events)
        line.kill()
        with pytest.raises(EngineLost, match="died twice on this frame, the last time: killed by signal 9"):
            list(events)


def test_so_many_streams_at_a_time_and_a_further_one_waits_until_it_is_not_wanted(line):
    with held(line) as block:
        streams = [line.pool.stream(block, LONG) for _ in range(MOST_STREAMS)]
        for each in streams:
            next(each)
        wanted = iter([False, False, True])
        with pytest.raises(Cancelled):
            next(line.pool.stream(block, LONG, lambda: next(wanted)))
        long = line.ticket(LONG)
        line.lanes.open("another camera", "block", 1).offer(long)
        assert_answers_any(line.offered())
        assert line.lanes.waiting == 1
        streams[0].close()
        assert_answers_any(long)
        for each in streams:
            each.close()


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
    assert line.pool.engines() == []
    assert not line.pool.ready


def test_a_stop_ends_the_first_start():
    line = Line()
    with ThreadPoolExecutor(1) as other:
        starting = other.submit(line.pool.start)
        line.pool.stop(1)
        with pytest.raises(EngineLost, match=STOPPED):
            starting.result(WAIT_S)
