"""What a bundle must pass before it serves: its place, the shadow run beside the line, and the limits."""

import os
import signal

import pytest

from agvas_runtime.errors import InputError, NotFound, NotNow
from agvas_runtime.frames import read_image
from agvas_runtime.modes import Mode, Request
from agvas_runtime.proto.agvas.v1.admin_pb2 import Comparison, SwapRequest
from agvas_runtime.result import Verdict
from agvas_runtime.server.engine.arena import Arena
from agvas_runtime.server.engine.process import EngineProcess
from agvas_runtime.server.engine.task import EngineFacts, EngineSpec, FrameResult, Task
from agvas_runtime.server.swap import MOST_WAITING, Limits, Shadow, differs, overlap
from agvas_runtime.server.ticket import Answered, Ticket
from agvas_runtime.server.trial import bundle_folder

SPEC = EngineSpec(threads=1, max_batch=1)
WAIT_S = 60.0
AGREE = Limits(max_slowdown=1000)


@pytest.fixture(scope="module")
def arena():
    opened = Arena(64 << 20)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def candidate(arena):
    """An engine of its own, with the embedded bundle."""
    process = EngineProcess(SPEC, arena)
    process.wait_ready(WAIT_S)
    yield process
    process.close()


class Line:
    """Frames as the old engine answered them."""

    def __init__(self, arena, image, result):
        self._arena, self._image, self._result, self._held = arena, image, result, []

    def frame(self, ms: float = 10.0, task: Task = Task(), verdict: Verdict | None = None) -> tuple[Ticket, Answered]:
        block = self._arena.place(self._image)
        self._held.append(block)
        facts = EngineFacts(1, b"", "old", "0" * 64, 0.5, {1: 30.0})
        block.mask[:] = self._result.mask
        result = FrameResult(b"", verdict or self._result.verdict, ms, self._result.threshold)
        return Ticket(block, task), Answered(result, facts, 0.0, block)

    def let_go(self) -> None:
        """Every caller has its answer."""
        while self._held:
            self._held.pop().release()


@pytest.fixture
def line(arena, segmenter, photo):
    """In the end every block must be free again."""
    frames = Line(arena, read_image(photo), segmenter.segment(photo))
    yield frames
    frames.let_go()
    assert arena.free_bytes == arena.size


def compared(shadow: Shadow, frames) -> Comparison:
    """The figures once the candidate has answered every frame, one after the other."""
    for number, frame in enumerate(frames):
        shadow.observe(*frame)
        shadow.wait(number + 1, WAIT_S)
    return shadow.comparison()


def test_a_bundle_agrees_with_itself(arena, candidate, line):
    shadow = Shadow(candidate, arena, 3)
    figures = compared(shadow, [line.frame(ms) for ms in (10.0, 12.0, 20.0)])
    assert shadow.wait(100, WAIT_S)
    assert (figures.frames, figures.same_verdict, figures.errors) == (3, 3, 0)
    assert (figures.mean_iou, figures.min_iou, figures.old_p50_ms) == (1.0, 1.0, 12.0)
    assert figures.new_p50_ms > 0
    assert shadow.failed(AGREE) is None
    shadow.close()


def test_another_verdict_is_counted(arena, candidate, line):
    shadow = Shadow(candidate, arena, 2)
    figures = compared(shadow, [line.frame(), line.frame(verdict=Verdict.NO_ANSWER)])
    shadow.close()
    assert (figures.frames, figures.same_verdict) == (2, 1)
    expected = "1 of 2 frames have another verdict (50.0%), expected at most 1.0%"
    assert shadow.failed(AGREE) == expected


def test_the_line_keeps_its_own_block(arena, candidate, line):
    ticket, answered = line.frame()
    answered.block.mask[:] = False
    answered.block.mask[::2] = True
    before = answered.block.mask.copy()
    shadow = Shadow(candidate, arena, 1)
    compared(shadow, [(ticket, answered)])
    shadow.close()
    assert (answered.block.mask == before).all()


def test_a_slow_candidate_costs_the_line_a_few_blocks(arena, candidate, line):
    frames = [line.frame() for _ in range(20)]
    shadow = Shadow(candidate, arena, 20)
    os.kill(candidate.pid, signal.SIGSTOP)
    try:
        for frame in frames:
            shadow.observe(*frame)
        line.let_go()
        size = frames[0][1].block.token.nbytes
        kept = MOST_WAITING + 2  # those that wait, the one that is compared, and its copy
        assert 0 < arena.size - arena.free_bytes < (kept + 0.5) * size
    finally:
        os.kill(candidate.pid, signal.SIGCONT)
        shadow.close()


def test_frames_that_the_old_engine_segmented_together_have_no_time_of_their_own(arena, candidate, line):
    together = [line.frame(40.0), line.frame(40.0)]
    shadow = Shadow(candidate, arena, 2)
    for frame in together:
        shadow.observe(*frame)
    assert shadow.wait(100, WAIT_S)
    shadow.close()
    assert shadow.comparison().old_p50_ms == 30.0  # as it was measured at the engine's start


def test_a_frame_that_fails_is_told_with_its_error(arena, candidate, line):
    long = Request(Mode.DESCRIBE_PLUS, instruction="b" * 400, normal_look="a" * 200)
    shadow = Shadow(candidate, arena, 2)
    figures = compared(shadow, [line.frame(), line.frame(task=Task(long))])
    shadow.close()
    assert (figures.frames, figures.errors) == (1, 1)
    assert figures.first_error.startswith("normal_look and instruction: found")
    assert shadow.failed(AGREE) == f"1 of 2 frames failed on it, expected none; the first: {figures.first_error}"


def test_a_candidate_that_dies_ends_the_run(arena, line):
    process = EngineProcess(SPEC, arena)
    process.wait_ready(WAIT_S)
    shadow = Shadow(process, arena, 5)
    os.kill(process.pid, signal.SIGKILL)
    shadow.observe(*line.frame())
    assert shadow.wait(100, WAIT_S)
    assert shadow.failed(AGREE) == "its engine failed after 0 frames: killed by signal 9"
    shadow.close()
    process.close()


def test_too_few_frames_are_no_comparison(arena, candidate, line):
    shadow = Shadow(candidate, arena, 5)
    compared(shadow, [line.frame()])
    shadow.close()
    assert shadow.failed(Limits(shadow_timeout_s=2)) == "the line brought 1 of 5 frames within 2 s"


def test_frames_without_room_for_a_copy_are_left_out_and_told(candidate, line):
    full = Arena(4096)
    shadow = Shadow(candidate, full, 1)
    shadow.observe(*line.frame())
    with shadow._changed:
        assert shadow._changed.wait_for(lambda: not shadow._waiting, WAIT_S)
    shadow.close()
    assert shadow.comparison() == Comparison()
    told = "0 of 1 frames were compared within 2 s: 1 that the line brought had no room for a copy in max_memory_mb"
    assert shadow.failed(Limits(shadow_timeout_s=2)) == told
    full.close()


@pytest.mark.parametrize(
    ("figures", "reason"),
    [
        ({}, None),
        ({"same_verdict": 99}, None),
        ({"same_verdict": 98}, "2 of 100 frames have another verdict (2.0%), expected at most 1.0%"),
        ({"mean_iou": 0.89}, "the masks overlap by 0.890 on average, expected at least 0.9"),
        ({"new_p50_ms": 15.0}, None),
        ({"new_p50_ms": 15.1}, "a frame takes 15.1 ms, before 10.0 ms, expected at most 1.5 times that"),
    ],
)
def test_a_limit_that_is_exceeded_is_named_with_both_numbers(figures, reason):
    alike = {"frames": 100, "same_verdict": 100, "mean_iou": 1.0, "old_p50_ms": 10.0, "new_p50_ms": 10.0}
    assert differs(Comparison(**(alike | figures)), Limits()) == reason


def test_the_overlap_of_two_empty_masks_is_whole(segmenter, photo):
    mask = segmenter.segment(photo).mask
    empty = mask & False
    half = mask.copy()
    half[: mask.shape[0] // 2] = False
    assert (overlap(empty, empty), overlap(mask, mask), overlap(mask, empty)) == (1.0, 1.0, 0.0)
    assert overlap(mask, half) == half.sum() / mask.sum()


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("shadow_timeout_s", 0.0, "input should be greater than 0"),
        ("max_disagreement", 1.5, "input should be less than or equal to 1"),
        ("min_iou", float("nan"), "input should be"),
        ("max_slowdown", float("nan"), "input should be greater than 0"),
        ("shadow_frames", 200_000, "input should be less than or equal to 100000"),
    ],
)
def test_a_limit_that_makes_no_sense_is_named(field, value, rule):
    with pytest.raises(InputError, match=rf"^{field}: found {value}, {rule}"):
        Limits.of(SwapRequest(**{field: value}))


# --- where bundles lie


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root" / "line" / "new").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "root" / "out").symlink_to(tmp_path / "outside")
    (tmp_path / "root" / "current").symlink_to("line/new")
    (tmp_path / "root" / "circle").symlink_to("circle")
    (tmp_path / "root" / "file").write_text("")
    return tmp_path / "root"


def test_a_bundle_is_a_folder_below_the_root(root):
    assert bundle_folder(root, "line/new") == bundle_folder(root, "current") == (root / "line" / "new").resolve()


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../outside", "line/../../outside", "/", "/etc", "line/", "a\0b", "a\nb", "a\\b", "n" * 256]
)
def test_a_name_that_could_leave_the_root_is_refused(root, name):
    with pytest.raises(InputError, match=r"^bundle: found .*, expected the plain name of a folder below") as caught:
        bundle_folder(root, name)
    assert not isinstance(caught.value, NotFound)
    assert str(root) not in str(caught.value)


def test_a_link_that_leaves_the_root_is_refused(root):
    with pytest.raises(InputError, match=r"^bundle: 'out' is a link that leaves the bundle root"):
        bundle_folder(root, "out")


@pytest.mark.parametrize("name", ["none", "line/none", "file", "circle", "/".join("n" * 100)])
def test_a_bundle_that_is_not_there_is_not_found(root, name):
    with pytest.raises(NotFound, match=r"^bundle: found"):
        bundle_folder(root, name)


def test_without_a_root_there_is_no_swap():
    with pytest.raises(NotNow, match="without a folder of bundles"):
        bundle_folder(None, "any")
