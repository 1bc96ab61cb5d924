"""Long answers: they hold up no frame, are retried, and go on where they were."""

from contextlib import closing

import pytest

from agvas_runtime.errors import Cancelled, EngineLost
from agvas_runtime.server.engine.dispatch import MOST_STREAMS
from agvas_runtime.server.lanes import Fate
from tests.runtime.engine_pool.line import (
    LONG,
    WAIT_S,
    assert_answers,
    assert_answers_any,
    failure,
    held,
    said,
    texts,
    until,
)


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
