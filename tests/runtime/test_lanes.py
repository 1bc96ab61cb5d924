"""Where frames wait: bounded queues, deadlines, fair turns, batches, and one answer a frame whatever happens."""

import threading
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotAnswered
from math import inf
from time import perf_counter

import pytest

from agvas_runtime.modes import Mode, Request
from agvas_runtime.server.engine.task import EngineFacts, Task
from agvas_runtime.server.lanes import Answered, Fate, Lane, Lanes, NoResult, Ticket

LONG = Task(Request(Mode.EXPLAIN))
SCRATCHES = Task(Request(class_name="scratches"))
FACTS = EngineFacts(pid=1, model_reply=b"", name="", bundle_sha256="", threshold=0.5)
SOON_S = 30
"""More than any of these steps takes."""


class Held:
    """A block that counts how often it was released."""

    def __init__(self) -> None:
        self.released = 0

    def release(self) -> None:
        self.released += 1


@pytest.fixture
def lanes():
    lanes = Lanes()
    yield lanes
    lanes.close("the test ends")


def ticket(task: Task = Task(), deadline: float | None = None) -> Ticket:
    return Ticket(Held(), task, deadline)


def offered(lane: Lane, count: int = 1, task: Task = Task()) -> list[Ticket]:
    tickets = [ticket(task) for _ in range(count)]
    for each in tickets:
        lane.offer(each)
    return tickets


def fate(of: Ticket) -> Fate:
    """Why it was answered without a result; its block is free then."""
    error = of.outcome.exception(SOON_S)
    assert isinstance(error, NoResult)
    assert of.block.released == 1
    return error.fate


def answer(of: Ticket) -> Answered:
    """What a dispatcher does with a frame that it took."""
    answered = Answered(None, FACTS, 0.0, of.block)
    of.end(answered)
    return answered


def in_thread(work, *arguments) -> threading.Thread:
    thread = threading.Thread(target=work, args=arguments, daemon=True)
    thread.start()
    return thread


def test_a_lane_is_first_in_first_out(lanes):
    tickets = offered(lanes.open("a", "block", 3), 3)
    assert [lanes.take(1, 0)[0] for _ in range(3)] == tickets


def test_nothing_is_taken_where_nothing_waits(lanes):
    assert lanes.take(4, 0) == []


def test_a_frame_that_comes_wakes_who_waits_for_one(lanes):
    with ThreadPoolExecutor(1) as pool:
        taking = pool.submit(lanes.take, 1, 2 * SOON_S)
        (one,) = offered(lanes.open("a", "latest", 1))
        assert taking.result(SOON_S) == [one]


def test_the_answer_goes_to_the_caller_and_its_block_with_it(lanes):
    (one,) = offered(lanes.open("a", "latest", 1))
    lanes.take(1, 0)
    assert answer(one) is one.outcome.result(0)
    assert one.block.released == 0


def test_latest_answers_the_oldest_frame_dropped_where_the_queue_is_full(lanes):
    lane = lanes.open("a", "latest", 2)
    oldest, *others = offered(lane, 3)
    assert fate(oldest) is Fate.DROPPED
    assert str(oldest.outcome.exception(0)) == "a newer frame of this camera took its place"
    assert lane.waiting == lanes.waiting == 2
    assert [lanes.take(1, 0)[0] for _ in range(2)] == others


def test_block_waits_for_room(lanes):
    lane = lanes.open("a", "block", 1)
    (first,) = offered(lane)
    second = ticket()
    offering = in_thread(lane.offer, second)
    offering.join(0.05)
    assert offering.is_alive()
    assert lanes.take(1, 0) == [first]
    offering.join(SOON_S)
    assert lanes.take(1, 0) == [second]


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (lambda lanes, lane, waiting: lane.close(), Fate.CANCELLED),
        (lambda lanes, lane, waiting: lanes.refuse("it stops"), Fate.REFUSED),
        (lambda lanes, lane, waiting: lanes.fail("no engine"), Fate.ENGINE_FAILED),
        (lambda lanes, lane, waiting: lanes.close("it stops"), Fate.REFUSED),
        (lambda lanes, lane, waiting: waiting.cancel(), Fate.CANCELLED),
    ],
)
def test_what_waits_for_room_is_answered_where_there_will_be_none(lanes, event, expected):
    lane = lanes.open("a", "block", 1)
    offered(lane)
    waiting = ticket()
    offering = in_thread(lane.offer, waiting)
    event(lanes, lane, waiting)
    offering.join(SOON_S)
    assert fate(waiting) is expected


def test_a_deadline_counts_while_a_frame_waits_for_room(lanes):
    lane = lanes.open("a", "block", 1)
    offered(lane)
    late = ticket(deadline=perf_counter() + 0.01)
    lane.offer(late)
    assert fate(late) is Fate.EXPIRED


def test_a_frame_expires_though_nobody_takes_frames(lanes):
    lane = lanes.open("a", "block", 3)
    arrived = perf_counter()
    later, sooner = (Ticket(Held(), Task(), arrived + s, arrived=arrived) for s in (0.04, 0.02))
    for each in (later, sooner, without := ticket()):
        lane.offer(each)
    assert fate(later) is fate(sooner) is Fate.EXPIRED
    assert str(sooner.outcome.exception(0)) == "the deadline of 20 ms passed before an engine was free"
    assert lanes.take(1, 0) == [without]


def test_a_deadline_may_be_beyond_all_time(lanes):
    lane = lanes.open("a", "block", 1)
    lane.offer(ticket(deadline=1e300))
    far = ticket(deadline=1e299)
    offering = in_thread(lane.offer, far)
    (first,) = lanes.take(1, 0)
    offering.join(SOON_S)
    late = ticket(deadline=perf_counter() + 0.01)
    lanes.open("b", "block", 1).offer(late)
    assert fate(late) is Fate.EXPIRED
    assert lanes.take(1, 0) == [far]
    answer(first)


def test_a_late_frame_costs_no_compute(lanes):
    lane = lanes.open("a", "block", 2)
    late = ticket(deadline=perf_counter() + 0.005)
    lane.offer(late)
    while perf_counter() < late.deadline:
        pass
    (other,) = offered(lane)
    assert [each for _ in range(2) for each in lanes.take(2, 0)] == [other]
    assert fate(late) is Fate.EXPIRED


def test_a_frame_whose_deadline_passed_on_the_way_is_not_queued(lanes):
    lane = lanes.open("a", "latest", 1)
    late = ticket(deadline=perf_counter())
    lane.offer(late)
    assert fate(late) is Fate.EXPIRED
    assert lane.waiting == 0


def test_a_deadline_is_over_once_an_engine_has_the_frame(lanes):
    lane = lanes.open("a", "block", 2)
    running = ticket(deadline=perf_counter() + 0.02)
    waiting = ticket(deadline=perf_counter() + 0.03)
    lane.offer(running)
    assert lanes.take(1, 0) == [running]
    lane.offer(waiting)
    assert fate(waiting) is Fate.EXPIRED
    assert answer(running) is running.outcome.result(0)


def test_a_flooding_lane_does_not_starve_another(lanes):
    flood, calm = lanes.open("flood", "block", 40), lanes.open("calm", "block", 1)
    offered(flood, 20)
    lanes.take(1, 0)
    for _ in range(5):
        (one,) = offered(calm)
        assert one in lanes.take(1, 0) + lanes.take(1, 0)
        offered(flood, 4)


def test_every_lane_has_one_frame_a_round(lanes):
    tickets = {name: offered(lanes.open(name, "block", 9), count) for name, count in (("a", 9), ("b", 2), ("c", 4))}
    named = {each: name for name, some in tickets.items() for each in some}
    assert "".join(named[lanes.take(1, 0)[0]] for _ in range(15)) == "abcabcacacaaaaa"


def test_waiting_frames_of_one_instruction_are_taken_together(lanes):
    a, b = offered(lanes.open("a", "block", 3), 3), offered(lanes.open("b", "block", 1))
    assert lanes.take(4, 0) == [a[0], b[0], a[1], a[2]]


def test_a_batch_is_never_larger_than_asked(lanes):
    a = offered(lanes.open("a", "block", 3), 3)
    assert lanes.take(2, 0) == a[:2]


def test_frames_that_are_asked_something_else_are_not_in_a_batch(lanes):
    a, other, b = (lanes.open(name, "block", 2) for name in ("a", "other", "b"))
    (first,), scratches, (second,) = offered(a), offered(other, 1, SCRATCHES), offered(b)
    assert lanes.take(4, 0) == [first, second]
    assert lanes.take(4, 0) == scratches


def test_a_batch_takes_no_frame_before_an_older_one_of_its_lane(lanes):
    a, b = lanes.open("a", "block", 2), lanes.open("b", "block", 2)
    (first,) = offered(a)
    (scratches,), (behind,) = offered(b, 1, SCRATCHES), offered(b)
    assert lanes.take(4, 0) == [first]
    assert lanes.take(4, 0) == [scratches]
    assert lanes.take(4, 0) == [behind]


def test_a_lane_that_does_not_fit_a_batch_keeps_its_turn(lanes):
    flood, other = lanes.open("flood", "block", 9), lanes.open("other", "block", 1)
    offered(flood, 8)
    scratches = offered(other, 1, SCRATCHES)
    lanes.take(4, 0)
    assert lanes.take(4, 0) == scratches


def test_a_long_answer_is_never_in_a_batch(lanes):
    first, second = offered(lanes.open("a", "block", 2), 2, LONG)
    assert lanes.take(4, 0) == [first]
    assert lanes.take(4, 0) == [second]


def test_frames_that_are_not_wanted_stay_and_hold_nobody_else_up(lanes):
    (long,), (short,) = offered(lanes.open("a", "block", 1), 1, LONG), offered(lanes.open("b", "block", 1))
    assert lanes.take(4, 0, lambda each: not each.task.long) == [short]
    assert lanes.take(4, 0, lambda each: not each.task.long) == []
    assert lanes.take(4, 0) == [long]


def test_a_retried_frame_goes_first_and_alone(lanes):
    lane = lanes.open("a", "block", 4)
    offered(lane, 4)
    first, second = lanes.take(2, 0)
    for each in (first, second):
        each.end()
        lanes.retry(each, "killed by signal 9")
    assert lanes.take(4, 0) == [first]
    assert lanes.take(4, 0) == [second]
    assert len(lanes.take(4, 0)) == 2


def test_a_frame_that_two_engines_died_on_is_given_up(lanes):
    (one,) = offered(lanes.open("a", "block", 1))
    for _ in range(2):
        assert lanes.take(1, 0) == [one]
        one.end()
        lanes.retry(one, "killed by signal 9")
    assert fate(one) is Fate.ENGINE_FAILED
    assert "twice" in str(one.outcome.exception(0))
    assert "killed by signal 9" in str(one.outcome.exception(0))
    assert lanes.take(1, 0) == []


def test_a_retried_frame_expires_like_any_other(lanes):
    one = ticket(deadline=perf_counter() + 0.05)
    lanes.open("a", "block", 1).offer(one)
    assert lanes.take(1, 0) == [one]
    one.end()
    lanes.retry(one, "killed by signal 9")
    assert fate(one) is Fate.EXPIRED
    assert lanes.take(1, 0) == []


def test_closing_a_lane_cancels_its_frames_and_no_other_s(lanes):
    lane = lanes.open("a", "block", 2)
    gone = offered(lane, 2)
    (other,) = offered(lanes.open("b", "block", 1))
    lane.close()
    assert {fate(each) for each in gone} == {Fate.CANCELLED}
    late = ticket()
    lane.offer(late)
    assert fate(late) is Fate.CANCELLED
    assert lanes.take(4, 0) == [other]


def test_a_block_is_kept_until_the_engine_is_done_with_it(lanes):
    """A cancelled frame is answered at once, but the engine may still write into its block."""
    lane = lanes.open("a", "block", 1)
    (running,) = offered(lane)
    lanes.take(1, 0)
    lane.close()
    assert running.outcome.exception(0).fate is Fate.CANCELLED
    assert running.block.released == 0
    answer(running)
    assert running.block.released == 1


def test_a_cancelled_frame_is_not_retried(lanes):
    lane = lanes.open("a", "block", 1)
    (running,) = offered(lane)
    lanes.take(1, 0)
    running.cancel()
    running.end()
    lanes.retry(running, "killed by signal 9")
    assert fate(running) is Fate.CANCELLED
    assert lanes.take(1, 0) == []


def test_cancelling_a_waiting_frame_makes_room(lanes):
    lane = lanes.open("a", "block", 1)
    (one,) = offered(lane)
    one.cancel()
    assert fate(one) is Fate.CANCELLED
    (two,) = offered(lane)  # does not wait
    assert lanes.take(4, 0) == [two]


def test_nobody_else_can_end_a_ticket():
    one = ticket()
    assert not one.outcome.cancel()
    one.give_up(NoResult(Fate.REFUSED, "first"))
    one.cancel()
    assert str(one.outcome.exception(0)) == "first"
    assert one.block.released == 1


def test_without_an_engine_frames_are_answered_at_once_until_there_is_one(lanes):
    lane = lanes.open("a", "block", 2)
    (waiting,) = offered(lane)
    lanes.fail("the engine died three times")
    (new,) = offered(lane)
    assert fate(waiting) is fate(new) is Fate.ENGINE_FAILED
    assert str(new.outcome.exception(0)) == "the engine died three times"
    lanes.recover()
    assert offered(lane) == lanes.take(1, 0)


def test_a_frame_in_flight_is_not_kept_where_no_engine_is_ready(lanes):
    (one,) = offered(lanes.open("a", "block", 1))
    lanes.take(1, 0)
    lanes.fail("the engine died three times")
    one.end()
    lanes.retry(one, "killed by signal 9")
    assert fate(one) is Fate.ENGINE_FAILED


def test_a_drain_refuses_new_frames_and_ends_when_the_accepted_ones_are_answered(lanes):
    lane = lanes.open("a", "block", 2)
    running, waiting = offered(lane, 2)
    lanes.take(1, 0)
    lanes.refuse("the server is being stopped")
    (new,) = offered(lane)
    assert fate(new) is Fate.REFUSED
    assert not lanes.wait_drained(0)
    with ThreadPoolExecutor(1) as pool:
        drained = pool.submit(lanes.wait_drained, SOON_S)
        answer(running)
        with pytest.raises(NotAnswered):
            drained.result(0)
        assert lanes.take(1, 0) == [waiting]
        answer(waiting)
        assert drained.result(SOON_S)


def test_closing_the_lanes_answers_what_waits_and_what_comes_and_what_comes_back(lanes):
    lane = lanes.open("a", "block", 3)
    running, waiting = offered(lane, 2)
    lanes.take(1, 0)
    lanes.close("the server is stopped")
    running.end()
    lanes.retry(running, "killed")
    (new,) = offered(lane)
    assert fate(running) is fate(waiting) is fate(new) is Fate.REFUSED
    assert lanes.wait_drained(0)


def test_a_lane_without_room_makes_no_sense(lanes):
    with pytest.raises(ValueError, match="found room for 0 frames, expected at least 1"):
        lanes.open("a", "latest", 0)


def test_every_frame_has_one_answer_and_every_block_is_released_once_whatever_happens_at_once():
    """Threads that offer, take, answer, fail, retry, cancel and close, all at once."""
    lanes, tickets, ended = Lanes(), [], threading.Event()

    def offer(policy):
        for number in range(60):
            lane = lanes.open("a", policy, 2)
            some = [ticket(deadline=perf_counter() + 0.001 if each % 3 == 0 else inf) for each in range(6)]
            tickets.extend(some)
            for each in some:
                lane.offer(each)
            if number % 2:
                some[-1].cancel()
                lane.close()

    def dispatch():
        while not ended.is_set():
            for each in lanes.take(3, 0.01):
                if hash(each) // 16 % 3:
                    answer(each)
                else:
                    each.end()
                    lanes.retry(each, "killed by signal 9")

    with ThreadPoolExecutor(7) as pool:
        offering = [pool.submit(offer, policy) for policy in ("latest", "block", "latest", "block")]
        dispatching = [pool.submit(dispatch) for _ in range(2)]
        for each in offering:
            each.result(SOON_S)
        assert lanes.wait_drained(SOON_S)
        ended.set()
        for each in dispatching:
            each.result(SOON_S)
    assert len(tickets) == 4 * 60 * 6
    with_result = [each for each in tickets if each.outcome.exception(0) is None]
    assert 0 < len(with_result) < len(tickets)
    assert all(each.block.released == (each.outcome.exception(0) is not None) for each in tickets)
    assert lanes.waiting == 0
    lanes.close("done")
