"""What no answer waits for is done all the same: soon, in order, and before somebody looks."""

import logging
from threading import Event

import pytest

from agvas_runtime.server.later import MOST, Later


@pytest.fixture
def later():
    made = Later()
    yield made
    made.close()


def test_it_is_done_in_order_by_the_time_somebody_looks(later):
    done = []
    for number in range(MOST):
        later.add(lambda number=number: done.append(number))
    later.settle()
    assert done == list(range(MOST))


def test_it_is_done_without_anybody_looking(later):
    for _ in range(3):
        done = Event()
        later.add(done.set)
        assert done.wait(10)


def test_never_more_than_so_much_is_left_to_do(later):
    done = []
    for _ in range(10 * MOST):
        later.add(lambda: done.append(1))
    assert len(done) >= 9 * MOST


def test_what_fails_is_logged_and_the_rest_is_done(later, caplog):
    done = []
    with caplog.at_level(logging.ERROR, "agvas.later"):
        later.add(lambda: 1 / 0)
        later.add(lambda: done.append(1))
        later.settle()
    assert done == [1]
    assert "ZeroDivisionError" in caplog.text


def test_what_is_left_at_the_end_is_done():
    later, done = Later(), []
    later.add(lambda: done.append(1))
    later.close()
    assert done == [1]
