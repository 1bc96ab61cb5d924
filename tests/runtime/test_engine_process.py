"""An engine in a process of its own says what the segmenter says here, to the bit; `test_engine_end.py` has its end."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import psutil
import pytest

from agvas_runtime.errors import Cancelled, EngineError, InputError
from agvas_runtime.frames import read_image
from agvas_runtime.modes import Mode, Request
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.segmenter import GroupMap, Text
from agvas_runtime.server.engine.arena import Arena, Block, Token
from agvas_runtime.server.engine.process import EngineProcess
from agvas_runtime.server.engine.task import EngineSpec, Task
from agvas_runtime.server.replies import result_reply
from agvas_runtime.verdict import Recipe, Verdict
from agvas_runtime.writer import Decoding
from tests.conftest import DEMO_FRAMES

SPEC = EngineSpec(threads=1)
IMAGES = [read_image(path) for path in sorted(DEMO_FRAMES.glob("*.jpg"))[2:5]]
QUESTION = Request(Mode.CONVERSATION, "What is on the surface?")
LONG = Task(QUESTION, decoding=Decoding(temperature=5, seed=1, max_new_tokens=2048))
TASKS = {
    "direct": Task(probability=True),
    "class": Task(Request(class_name="scratches"), Recipe(min_area_px=50), probability=True),
    "recipe": Task(recipe=Recipe(threshold=0.2, alpha=0.3, roi=(10, 20, 90, 100)), probability=True),
    "no text": Task(decoding=Decoding(text=False), probability=True),
    "drawn": Task(Request(Mode.EXPLAIN), decoding=Decoding(temperature=1.5, seed=5, max_new_tokens=30)),
    "question": Task(QUESTION),
}
WAIT_S = 60


@pytest.fixture(scope="module")
def arena():
    made = Arena(64 * 2**20)
    yield made
    made.close()


@pytest.fixture(scope="module")
def engine(arena):
    """Made by a thread that is gone before the first test begins."""

    def make():
        made = EngineProcess(SPEC, arena)
        made.wait_ready(WAIT_S)
        return made

    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(make).result()
    yield made
    assert not made._owed, "it would be killed for an answer that never comes"
    made.close()
    assert arena.free_bytes == arena.size, "a block was never released"


@pytest.fixture
def place(arena):
    """Places frames; they are released after the test."""
    blocks = []

    def put(image):
        blocks.append(arena.place(image))
        return blocks[-1]

    yield put
    for block in blocks:
        block.release()


def assert_same(found, block, expected, task):
    """Everything but the times, to the bit."""
    message, wanted = pb.SegmentResponse.FromString(found.reply), result_reply(expected, task.recipe)
    assert [timing.stage for timing in message.timings] == [timing.stage for timing in wanted.timings]
    assert {timing.stage: timing.ms for timing in message.timings}["total"] == found.total_ms
    for each in (message, wanted):
        del each.timings[:]
    assert message == wanted
    assert (found.verdict, found.threshold) == (expected.verdict, expected.threshold)
    assert np.array_equal(block.mask, expected.mask)
    if task.probability:
        assert np.array_equal(block.probability, expected.probability)
    assert len(found.group_maps) == len(expected.group_maps)
    assert all(np.array_equal(one, other) for one, other in zip(found.group_maps, expected.group_maps, strict=True))


def here(segmenter, image, task):
    """What the segmenter says in this process."""
    return segmenter.segment_batch([image], task.request, task.recipe, decoding=task.decoding)[0]


# What it says


@pytest.mark.parametrize("name", TASKS)
def test_a_frame_gets_the_segmenters_own_result_to_the_bit(engine, segmenter, place, name):
    task = TASKS[name]
    for image in IMAGES:
        block = place(image)
        (found,) = engine.segment([block], [task])
        assert_same(found, block, here(segmenter, image, task), task)


def test_frames_of_one_batch_get_each_its_own_result_by_its_own_recipe(engine, segmenter, place):
    recipes = [Recipe(), Recipe(threshold=0.9), Recipe(roi=(0, 0, 50, 60), min_area_px=9)]
    tasks = [Task(recipe=recipe, probability=index != 1) for index, recipe in enumerate(recipes)]
    blocks = [place(image) for image in IMAGES]
    found = engine.segment(blocks, tasks)
    expected = segmenter.segment_batch(IMAGES, recipe=recipes)
    for each in zip(found, blocks, expected, tasks, strict=True):
        assert_same(*each)


def test_whoever_wants_the_results_first_has_them_first_and_fails_for_the_caller(engine, place):
    told = []
    assert engine.segment([place(IMAGES[0])], [Task()], answered=told.extend) == told

    def failing(results):
        raise ZeroDivisionError("oh")

    with pytest.raises(ZeroDivisionError, match="oh"):
        engine.segment([place(IMAGES[0])], [Task()], answered=failing)
    assert engine.segment([place(IMAGES[0])], [Task()])[0].verdict is told[0].verdict


@pytest.mark.parametrize("mode", [Mode.DESCRIBE, Mode.EXPLAIN, Mode.CONVERSATION])
def test_a_stream_is_the_segmenters_own_to_the_bit(engine, segmenter, place, mode):
    task = Task(QUESTION if mode is Mode.CONVERSATION else Request(mode), probability=True)
    for image in IMAGES:
        block = place(image)
        *found, result = engine.stream(block, task)
        *expected, wanted = segmenter.stream(image, task.request, task.recipe, decoding=task.decoding)
        assert_same(result, block, wanted, task)
        assert [each for each in found if isinstance(each, Text)] == [e for e in expected if isinstance(e, Text)]
        maps, wanted_maps = ([e for e in events if isinstance(e, GroupMap)] for events in (found, expected))
        assert [each.index for each in maps] == [each.index for each in wanted_maps]
        assert all(np.array_equal(a.probability, b.probability) for a, b in zip(maps, wanted_maps, strict=True))


def test_streams_and_frames_of_several_threads_do_not_disturb_each_other(engine, segmenter, place):
    streamed, task = Task(Request(Mode.DESCRIBE)), Task(probability=True)
    blocks = [place(image) for image in (*IMAGES, *IMAGES)]
    with ThreadPoolExecutor(6) as pool:
        streams = [pool.submit(lambda block: list(engine.stream(block, streamed)), block) for block in blocks[:3]]
        frames = [pool.submit(engine.segment, [block], [task]) for block in blocks[3:]]
    for index, image in enumerate(IMAGES):
        *_, wanted = segmenter.stream(image, streamed.request, streamed.recipe, decoding=streamed.decoding)
        assert_same(streams[index].result()[-1], blocks[index], wanted, streamed)
        assert_same(frames[index].result()[0], blocks[index + 3], here(segmenter, image, task), task)


def test_a_frame_is_answered_while_streams_are_under_way(engine, place):
    with closing(engine.stream(place(IMAGES[0]), LONG)) as one, closing(engine.stream(place(IMAGES[1]), LONG)) as other:
        assert isinstance(next(one), Text)
        assert isinstance(next(other), Text)
        assert engine.segment([place(IMAGES[2])], [Task()])[0].verdict is Verdict.REJECT
        assert isinstance(next(one), Text)
        assert isinstance(next(other), Text)


def test_it_says_what_it_is(engine, segmenter):
    facts = engine.facts
    assert facts == engine.wait_ready()
    assert facts.pid == engine.pid != os.getpid()
    assert facts.name == segmenter.manifest.name
    assert facts.threshold == segmenter.manifest.model.threshold
    assert facts.ms_per_frame[1] > 0


def test_its_memory_is_told_without_the_frames(engine, place):
    image = np.zeros((1000, 1000, 3), np.uint8)
    engine.segment([place(image)], [Task(probability=True)])
    resident = psutil.Process(engine.pid).memory_info().rss
    assert 0 < engine.memory_bytes() <= resident - 8 * 10**6


def test_the_servers_side_imports_no_engine():
    script = (
        "import sys, agvas_runtime.server.engine.process; print(sorted({'onnxruntime', 'tensorrt'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "[]\n"


# Errors, and who does not want an answer any more


@pytest.mark.parametrize(
    "task", [Task(Request(Mode.FINE_GRAINED)), Task(recipe=Recipe(roi=(5000, 0, 5001, 1)))], ids=["request", "roi"]
)
def test_what_is_not_usable_is_refused_in_the_segmenters_words(engine, segmenter, place, task):
    with pytest.raises(InputError) as wanted:
        here(segmenter, IMAGES[0], task)
    for ask in (lambda block: engine.segment([block], [task]), lambda block: list(engine.stream(block, task))):
        with pytest.raises(InputError) as caught:
            ask(place(IMAGES[0]))
        assert (type(caught.value), str(caught.value)) == (type(wanted.value), str(wanted.value))


def test_a_place_outside_the_memory_is_an_error_of_the_frame_and_of_nothing_else(engine, arena, place):
    outside = Block(None, Token(arena.size, 10, 10), lambda _: None)
    with pytest.raises(EngineError, match=r"^ValueError: found Token\(.* ends behind the arena's"):
        engine.segment([outside], [Task()])
    engine.segment([place(IMAGES[0])], [Task()])


def test_a_frame_that_nobody_wants_is_not_segmented(engine, place):
    with pytest.raises(Cancelled):
        engine.segment([place(IMAGES[0])], [LONG], lambda: True)


def test_a_stream_that_nobody_wants_any_more_ends_early(engine, place):
    events = []

    def take():
        for event in engine.stream(place(IMAGES[0]), LONG, lambda: len(events) >= 3):
            events.append(event)

    with pytest.raises(Cancelled):
        take()
    assert 3 <= len(events) <= 5


def test_a_long_batch_that_nobody_wants_any_more_ends_before_its_end(engine, place):
    asked = []
    with pytest.raises(Cancelled):
        engine.segment([place(IMAGES[0])], [LONG], lambda: asked.append(None) or len(asked) > 1)


def test_a_closed_stream_gives_its_block_back_when_the_process_is_done_with_it(engine, arena):
    free = arena.free_bytes
    block = arena.place(IMAGES[0])
    with closing(engine.stream(block, LONG)) as events:
        next(events)
        os.kill(engine.pid, signal.SIGSTOP)
    block.release()
    assert arena.free_bytes < free
    os.kill(engine.pid, signal.SIGCONT)
    other = arena.place(IMAGES[1])
    engine.segment([other], [Task()])  # answered behind the closed one
    other.release()
    assert arena.free_bytes == free


def test_it_outlives_the_thread_that_made_it(engine, place):
    """The kernel would end it with that thread if it were that one's child."""
    engine.segment([place(IMAGES[0])], [Task()])
    assert engine.alive


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_a_signal_to_the_whole_group_means_is_the_servers_to_decide(engine, place, number):
    os.kill(engine.pid, number)
    assert engine.segment([place(IMAGES[0])], [Task()])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_so_it_is_from_the_first_moment_of_a_process_on(arena, number):
    made = EngineProcess(SPEC, arena)
    os.kill(made.pid, number)
    made.wait_ready(WAIT_S)
    made.close()
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()), "what the server itself hears is none the less"
