"""Inside an engine process: whose turn it is, what travels back, and what is measured before the first frame."""

import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from agvas_runtime.errors import Cancelled
from agvas_runtime.frames import read_image
from agvas_runtime.modes import Mode, Request
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.segmenter import Segmenter
from agvas_runtime.server.engine import opening
from agvas_runtime.server.engine.arena import Arena
from agvas_runtime.server.engine.desk import Desk, Inbox
from agvas_runtime.server.engine.messages import Answer, Cancel, Failed, Link, Next, Work, packed
from agvas_runtime.server.engine.opening import measure
from agvas_runtime.server.engine.task import FrameResult, Task
from agvas_runtime.server.replies import VERDICTS

STREAMED = Task(Request(Mode.CONVERSATION, "What is on the surface?"))
ONE_FRAME = {"B": (1, 1, 1)}


class Talk:
    """A desk, and what was sent from it."""

    def __init__(self, segmenter, image):
        self.arena = Arena(8 * 2**20)
        self.block = self.arena.place(image)
        self.sent = []
        self.server, self._link = (Link(end.detach()) for end in socket.socketpair())
        self._desk = Desk(segmenter, self.arena, Inbox(self._link), self._send)

    def frame(self, job, task=Task()):
        self.server.send(Work(job, (self.block.token,), packed((task,)), streamed=False))

    def stream(self, job):
        self.server.send(Work(job, (self.block.token,), packed((STREAMED,)), streamed=True))

    def round(self):
        """The jobs that were answered in one round."""
        self.sent.clear()
        self._desk.round()
        return [answer.job for answer in self.sent]

    def close(self):
        self.server.close()
        self._link.close()
        self.arena.close()

    def _send(self, answer):
        """As it comes out of the pipe."""
        with ThreadPoolExecutor(1) as pool:
            heard = pool.submit(self.server.recv)
            self._link.send(answer)
            self.sent.append(heard.result())


@pytest.fixture
def talk(segmenter, photo):
    made = Talk(segmenter, read_image(photo))
    yield made
    made.close()


def test_a_batch_waits_for_one_step_of_a_stream_at_most_and_streams_take_turns(talk):
    for job in (1, 2):
        talk.stream(job)
    for job in (11, 12, 13):
        talk.frame(job)
    rounds = []
    for _ in range(3):
        rounds.append(talk.round())
        talk.server.send(Next(rounds[-1][-1]))
    assert rounds == [[11, 1], [12, 2], [13, 1]]


def test_a_stream_makes_no_step_that_nobody_asked_for(talk):
    talk.stream(1)
    talk.frame(11)
    assert talk.round() == [11, 1]
    talk.frame(12)
    assert talk.round() == [12]


def test_a_cancelled_job_ends_at_once_and_is_not_run(talk):
    for job in (11, 12):
        talk.frame(job)
    talk.stream(1)
    talk.server.send(Cancel(12))
    talk.server.send(Cancel(1))
    assert talk.round() == [12, 1, 11]
    *ended, done = talk.sent
    assert [(each.kind, each.job) for each in ended] == [("Cancelled", 12), ("Cancelled", 1)]
    assert isinstance(done, Answer)


def test_a_job_that_runs_hears_that_it_is_cancelled_and_others_keep_their_turns(segmenter, photo):
    class Asking:
        """Cancelled in the midst of a run, as the writer would find out before its next token."""

        def segment_batch(self, images, *args, cancelled, **options):
            assert not cancelled()
            talk.frame(12)
            talk.server.send(Cancel(11))
            assert cancelled()
            raise Cancelled("no more")

    talk = Talk(Asking(), read_image(photo))
    talk.frame(11)
    assert talk.round() == [11]
    assert talk.sent == [Failed(11, "Cancelled", "no more")]
    talk.server.send(Cancel(12))
    assert talk.round() == [12]
    talk.close()


def test_a_stream_that_waits_for_its_caller_can_be_cancelled(talk):
    talk.stream(1)
    talk.round()
    talk.server.send(Cancel(1))
    talk.round()
    assert talk.sent == [Failed(1, "Cancelled", "the answer is not wanted any more")]
    talk.server.send(Next(1))  # too late, and for nobody
    talk.frame(11)
    assert talk.round() == [11]


def test_masks_and_maps_do_not_travel_but_those_of_groups_do(segmenter, photo):
    class InTwoGroups:
        def segment_batch(self, *args, **options):
            (result,) = segmenter.segment_batch(*args, **options)
            return [replace(result, group_maps=(result.probability, result.probability / 2))]

    image = read_image(photo)
    whole = segmenter.segment(image)
    talk = Talk(InTwoGroups(), image)
    talk.frame(11, Task(probability=True))
    talk.round()
    (answer,) = talk.sent
    (result,) = answer.value
    assert isinstance(result, FrameResult)
    assert np.array_equal(talk.block.mask, whole.mask)
    assert np.array_equal(talk.block.probability, whole.probability)
    assert np.array_equal(result.group_maps, (whole.probability, whole.probability / 2))
    talk.close()


def test_results_travel_as_they_are(talk):
    tasks = (Task(), Task(probability=True))
    talk.server.send(Work(2**40, (talk.block.token,) * 2, packed(tasks), streamed=False))
    talk.round()
    (answer,) = talk.sent
    assert (answer.job, answer.last, len(answer.value)) == (2**40, True, 2)
    for result in answer.value:
        reply = pb.SegmentResponse.FromString(result.reply)
        assert reply.verdict == VERDICTS[result.verdict]
        assert result.total_ms == next(timing.ms for timing in reply.timings if timing.stage == "total")
        assert (result.threshold, result.group_maps) == (0.5, ())


def test_an_error_that_nobody_foresaw_is_the_jobs_and_its_traceback_is_told(segmenter, photo, capsys):
    class Broken:
        def segment_batch(self, *args, **options):
            raise ZeroDivisionError("by\nnothing")

    talk = Talk(Broken(), read_image(photo))
    talk.frame(11)
    talk.round()
    assert talk.sent == [Failed(11, "EngineError", "ZeroDivisionError: by nothing")]
    assert "in segment_batch" in capsys.readouterr().err
    talk.close()


class Independent:
    """The embedded bundle as if it had no scales of a whole batch: together, every frame is answered as alone."""

    def __init__(self, segmenter):
        self.manifest, self._segmenter = segmenter.manifest, segmenter

    def segment_batch(self, images):
        return [self._segmenter.segment(image) for image in images]


def test_frames_whose_answers_depend_on_each_other_are_never_segmented_together(segmenter):
    assert not opening.apart_and_together_alike(segmenter)
    assert list(measure(segmenter, 4, budget_s=1e9)) == [1]


def test_more_frames_are_measured_together_as_long_as_more_pay(segmenter):
    assert opening.apart_and_together_alike(Independent(segmenter))
    found = measure(Independent(segmenter), 5, budget_s=1e9)
    assert list(found) in ([1, 2], [1, 2, 4], [1, 2, 4, 5])
    assert all(found[more] <= 0.95 * found[fewer] for fewer, more in pairwise(list(found)[:-1]))
    assert all(ms > 0 for ms in found.values())


def test_only_one_frame_is_measured_where_the_time_does_not_suffice_for_more(segmenter):
    assert list(measure(Independent(segmenter), 4, budget_s=0)) == [1]


def test_only_one_frame_is_measured_where_it_takes_long(segmenter, monkeypatch):
    monkeypatch.setattr(opening, "LONG_MS", 0)
    assert list(measure(Independent(segmenter), 4, budget_s=1e9)) == [1]


def test_only_as_many_frames_are_measured_as_the_engines_take(segmenter):
    limited = Segmenter(segmenter.bundle, segmenter.pipeline.engines, ONE_FRAME)
    assert list(measure(limited, 4, budget_s=1e9)) == [1]
