"""Answers beyond the known ones: modes against plain decoding, limits, cuts, rechecks, drawing, streams, batches."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agvas_runtime.errors import Cancelled, EngineError
from agvas_runtime.frames import read_image
from agvas_runtime.modes import Mode, Request
from agvas_runtime.plan import Known
from agvas_runtime.result import AnswerKind, Result, Scores, Verdict
from agvas_runtime.segmenter import GroupMap, Segmenter, Text
from agvas_runtime.writer import Decoding

REQUESTS = [
    Request(),
    Request(Mode.DESCRIBE),
    Request(Mode.DESCRIBE_PLUS, normal_look="The surface is plain."),
    Request(Mode.EXPLAIN, class_name="scratches"),
    Request(Mode.FINE_GRAINED, "Please segment the smallest spot."),
    Request(Mode.GENERAL, class_name="screw"),
    Request(Mode.CONVERSATION, "What is in this image?"),
]


@pytest.fixture(scope="module")
def plain(segmenter: Segmenter) -> Segmenter:
    """The same engines, plain decoding."""
    return Segmenter(segmenter.bundle, dict(segmenter.pipeline.engines), speculate=False)


def ask(segmenter: Segmenter, image: Any, request: Request, **more: Any) -> Result:
    return segmenter.segment_batch([image], request, **more)[0]


@pytest.fixture
def frames(rng: np.random.Generator, photo: Path) -> list[np.ndarray]:
    flat = np.full((40, 70, 3), 128, np.uint8)
    return [read_image(photo), flat, rng.integers(0, 255, (90, 50, 3), np.uint8)]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: request.mode.value)
def test_known_answers_change_the_time_and_nothing_else(
    segmenter: Segmenter, plain: Segmenter, frames: list[np.ndarray], request_: Request
) -> None:
    """The bundle's products are 8-bit: scales depend on what runs together, so only clear answers are compared."""
    clear = 0
    for frame in frames:
        found, expected = ask(segmenter, frame, request_), ask(plain, frame, request_)
        if min(found.scores.min_margin, expected.scores.min_margin) > 0.5:
            assert found.answer == expected.answer
            assert (found.verdict, found.answer_kind) == (expected.verdict, expected.answer_kind)
            clear += 1
        assert expected.scores == Scores.unknown(expected.scores.min_margin)
        assert found.tokens >= found.proved_tokens
        if found.one_pass:
            assert found.proved_tokens == found.tokens
    assert clear or request_.mode not in (Mode.DIRECT, Mode.EXPLAIN)  # long texts may have a close choice in all three


def test_frames_together_are_answered_as_alone(segmenter: Segmenter, frames: list[np.ndarray]) -> None:
    """Of different sizes and answers."""
    together = segmenter.segment_batch(frames, Request(Mode.DESCRIBE))
    assert [each.size for each in together] == [frame.shape[:2] for frame in frames]
    assert len({tuple(each.timings_ms.values()) for each in together}) == 1
    assert segmenter.segment_batch([]) == []
    spots = []
    for x in (20, 120, 200):
        spots.append(np.random.default_rng(1).normal(150, 6, (240, 240, 3)).clip(0, 255).astype(np.uint8))
        spots[-1][90:120, x : x + 30] = 20
    together, alone = segmenter.segment_batch(spots), [segmenter.segment(frame) for frame in spots]
    for number, one in enumerate(together):  # 8-bit scales are shared, so only nearest to itself alone
        off = [float(np.abs(one.probability - other.probability).mean()) for other in alone]
        assert off.index(min(off)) == number


def test_a_limit_stops_within_the_known_answers_and_beyond(segmenter: Segmenter, photo: Path) -> None:
    for request in (Request(), REQUESTS[-1]):
        whole = ask(segmenter, photo, request)
        for limit in (1, 2, 4):
            cut = ask(segmenter, photo, request, decoding=Decoding(max_new_tokens=limit))
            assert cut.tokens == limit
            assert whole.answer.startswith(cut.answer)
            assert (cut.answer_kind, cut.verdict) == (AnswerKind.OTHER, Verdict.NO_ANSWER)
            assert f"answer was stopped by the limit of {limit} tokens" in cut.reason
            assert not cut.mask.any()
        enough = ask(segmenter, photo, request, decoding=Decoding(max_new_tokens=whole.tokens + 1))
        assert (enough.answer, enough.answer_kind) == (whole.answer, whole.answer_kind)


def test_without_text_the_answer_ends_behind_the_anchors(segmenter: Segmenter, photo: Path) -> None:
    whole = segmenter.segment(photo)
    cut = segmenter.segment(photo, decoding=Decoding(text=False))
    assert whole.answer == f"{cut.answer}."
    assert (cut.verified, whole.verified) == ("anchors", "answer")
    assert cut.one_pass
    assert cut.verdict is whole.verdict
    assert np.abs(cut.probability - whole.probability).max() < 0.1  # 8-bit scales, see above
    known = segmenter.pipeline._plan(whole.instruction, Known.CUT, 1)[0].trie
    assert len(known.tokens) <= 29
    described = scripted(segmenter, "A dent, see [NOR][ANO][SEG]. It is deep.").segment(
        photo, mode=Mode.DESCRIBE, decoding=Decoding(text=False)
    )
    assert described.answer == "A dent, see [NOR][ANO][SEG]"
    assert (described.verified, described.one_pass) == ("anchors", False)


def test_without_text_nothing_behind_the_first_group_counts(segmenter: Segmenter, photo: Path) -> None:
    """Not even where the walk went on: another group may be half written there."""
    text = "See [NOR][ANO] and [NOR][ANO][SEG]."
    for limit in (None, 3):
        model = scripted(segmenter, text)
        cut = model.segment(photo, decoding=Decoding(text=False, max_new_tokens=limit))
        assert "See [NOR][ANO]".startswith(cut.answer)
        assert cut.group_maps == ()
        if limit is None:
            assert (cut.answer, cut.verified) == ("See [NOR][ANO]", "anchors")
    twice = scripted(segmenter, "[SEG][SEG].").segment(photo, decoding=Decoding(text=False, max_new_tokens=2))
    assert (twice.answer, twice.verified, twice.answer_kind) == ("[SEG]", "anchors", AnswerKind.SEGMENTED)


def test_a_close_answer_is_read_again(segmenter: Segmenter, plain: Segmenter, photo: Path) -> None:
    sure = segmenter.segment(photo, decoding=Decoding(strict_below=0.0))
    assert not sure.rechecked
    again = segmenter.segment(photo, decoding=Decoding(strict_below=1e9))
    expected = plain.segment(photo)
    assert again.rechecked
    assert not again.one_pass
    assert again.answer == expected.answer
    assert again.scores.min_margin == pytest.approx(expected.scores.min_margin, abs=1e-5)
    assert again.scores.p_answer == sure.scores.p_answer
    np.testing.assert_allclose(again.probability, expected.probability, atol=1e-5)


def test_drawing_is_repeatable_and_cold_drawing_is_greedy(segmenter: Segmenter, photo: Path) -> None:
    def draw(**options: Any) -> str:
        return ask(segmenter, photo, REQUESTS[-1], decoding=Decoding(**options)).answer

    assert draw(temperature=5.0, seed=1) == draw(temperature=5.0, seed=1) != draw(temperature=5.0, seed=2)
    greedy = ask(segmenter, photo, REQUESTS[-1]).answer
    for cold in ({"temperature": 1e-4}, {"temperature": 5e-324}, {"temperature": 2.0, "top_p": 1e-9}):
        assert draw(**cold) == greedy


def test_a_stream_tells_the_text_the_maps_and_then_the_result(segmenter: Segmenter, photo: Path) -> None:
    for request in REQUESTS:
        events = list(segmenter.stream(photo, request))
        whole = ask(segmenter, photo, request)
        *before, result = events
        assert isinstance(result, Result)
        assert "".join(each.text for each in before if isinstance(each, Text)) == result.answer == whole.answer
        np.testing.assert_array_equal(result.mask, whole.mask)
        maps = [each for each in before if isinstance(each, GroupMap)]
        assert len(maps) == (result.answer_kind is AnswerKind.SEGMENTED)
        for each in maps:
            np.testing.assert_array_equal(each.probability, result.probability)
        if request.mode is Mode.CONVERSATION:
            assert len(before) == result.tokens > 4  # token by token


def test_streams_do_not_disturb_each_other(segmenter: Segmenter, frames: list[np.ndarray]) -> None:
    request = Request(Mode.CONVERSATION, "What is in this image?")
    alone = [ask(segmenter, frame, request).answer for frame in frames]
    streams = [segmenter.stream(frame, request) for frame in frames]
    answers: list[str | None] = [None] * len(frames)
    while None in answers:
        for number, stream in enumerate(streams):
            event = next(stream, None)
            segmenter.segment(frames[0])
            if isinstance(event, Result):
                answers[number] = event.answer
    assert answers == alone


def test_a_closed_stream_writes_no_further(segmenter: Segmenter, photo: Path) -> None:
    stream = segmenter.stream(photo, Request(Mode.CONVERSATION, "What is in this image?"))
    assert isinstance(next(stream), Text)
    stream.close()
    with pytest.raises(StopIteration):
        next(stream)


def test_a_cancelled_answer_ends_between_two_tokens(segmenter: Segmenter, photo: Path) -> None:
    left = iter([False, False, True])
    with pytest.raises(Cancelled):
        segmenter.segment(photo, "What is in this image?", mode=Mode.CONVERSATION, cancelled=lambda: next(left))
    assert next(left, None) is None
    assert segmenter.segment(photo).one_pass  # nothing is left behind


class _Writes:
    """The real graphs, but for the tokens that greedy decoding is told to write."""

    def __init__(self, engine: Any, script: Iterator[int]) -> None:
        self._engine, self._script = engine, script

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        outputs = dict(self._engine.run(feeds))
        outputs["greedy"] = outputs["greedy"].copy()
        outputs["greedy"].flat[0] = next(self._script)
        return outputs


def scripted(segmenter: Segmenter, text: str) -> Segmenter:
    """Writes this text; the states behind it are the model's own."""
    script = iter(segmenter.prompter.answer(text, anchors=True))
    engines = dict(segmenter.pipeline.engines)
    engines |= {name: _Writes(engines[name], script) for name in ("llm", "decode")}  # type: ignore[dict-item]
    return Segmenter(segmenter.bundle, engines, speculate=False)


def test_a_character_that_the_limit_cuts_is_streamed_as_the_result_has_it(segmenter: Segmenter, photo: Path) -> None:
    limit = len(segmenter.prompter.answer("A 缺", anchors=True)) - 2  # the end token, and a part of the character
    *events, result = scripted(segmenter, "A 缺").stream(photo, decoding=Decoding(max_new_tokens=limit))
    assert isinstance(result, Result)
    assert result.answer == "A \ufffd"
    assert "".join(event.text for event in events if isinstance(event, Text)) == result.answer
    *events, result = scripted(segmenter, "A 缺").stream(photo)
    assert [event.text for event in events if isinstance(event, Text)] == ["A", " ", "缺"]


def test_every_group_of_anchors_has_its_map(segmenter: Segmenter, photo: Path) -> None:
    text = "Two: [NOR][ANO][SEG] and [SEG] here."
    result = scripted(segmenter, text).segment(photo)
    assert (result.answer, result.answer_kind) == (text, AnswerKind.SEGMENTED)
    assert len(result.group_maps) == 2
    np.testing.assert_array_equal(result.probability, np.maximum(*result.group_maps))
    assert not np.array_equal(*result.group_maps)
    events = list(scripted(segmenter, text).stream(photo))
    maps = [event for event in events if isinstance(event, GroupMap)]
    assert [each.index for each in maps] == [0, 1]
    for each, expected in zip(maps, result.group_maps, strict=True):
        np.testing.assert_allclose(each.probability, expected, atol=1e-5)
    first = next(number for number, event in enumerate(events) if isinstance(event, GroupMap))
    assert any(isinstance(event, Text) for event in events[first:])  # before the text is at its end


def test_a_group_without_its_last_anchor_is_a_group_too(segmenter: Segmenter, photo: Path) -> None:
    result = scripted(segmenter, "It is [NOR][ANO] here.").segment(photo)
    assert result.answer_kind is AnswerKind.SEGMENTED
    assert result.probability.any()
    events = list(scripted(segmenter, "It is [NOR][ANO] here.").stream(photo))
    assert not any(isinstance(event, GroupMap) for event in events)  # [SEG] could still have come
    np.testing.assert_allclose(events[-1].probability, result.probability, atol=1e-5)


def test_numbers_that_are_none_are_an_error(segmenter: Segmenter, photo: Path) -> None:
    class Broken:
        def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
            outputs = dict(segmenter.pipeline.engines["llm"].run(feeds))
            return {**outputs, "margin": np.full_like(outputs["margin"], np.nan)}

    broken = Segmenter(segmenter.bundle, {**segmenter.pipeline.engines, "llm": Broken()})  # type: ignore[dict-item]
    with pytest.raises(EngineError, match="logits are not finite numbers"):
        broken.segment(photo)


def test_warming_prepares_what_will_be_asked(segmenter: Segmenter) -> None:
    request = Request(class_name="burrs")
    ran: list[tuple[str, int]] = []

    class Counted:
        def __init__(self, name: str) -> None:
            self.name, self.synchronize = name, segmenter.pipeline.engines[name].synchronize

        def run(self, feeds: Mapping[str, Any]) -> Any:
            ran.append((self.name, max(len(np.atleast_1d(each)) for each in feeds.values())))
            return segmenter.pipeline.engines[self.name].run(feeds)

    counted = Segmenter(segmenter.bundle, {name: Counted(name) for name in segmenter.pipeline.engines})  # type: ignore
    counted.warm([Request()], batches=(1, 3), decoding=Decoding(strict_below=0.1))
    assert {size for name, size in ran if name == "decoder"} == {1, 2, 3}
    assert sum(name == "decoder" for name, _ in ran) == 1 + 3 + 1
    assert sum(name == "decode" for name, _ in ran) == 3
    assert [known for _, known in counted.pipeline._plans] == [Known.DIRECT, Known.NOTHING]
    segmenter.warm([request], batches=(1, 2))
    asked = request.text(segmenter.templates, segmenter.manifest.prompt.default_instruction)
    assert (asked, Known.DIRECT) in segmenter.pipeline._plans
