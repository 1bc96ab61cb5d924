"""The paper's own route: against the single pass, against the library's own decoding, and in every mode.

Answers that the embedded model would not write are scripted: a module in the place of its output head says the tokens,
everything else is the real model.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from typer import Typer

from agvas_runtime import console
from agvas_runtime.bench.cli import app as bench_app
from agvas_runtime.bundle import default_bundle_path
from agvas_runtime.errors import EngineError, InputError
from agvas_runtime.evaluate.cli import app as evaluate_app
from agvas_runtime.maps import AnomalyMap
from agvas_runtime.modes import Mode
from agvas_runtime.result import Result, Scores
from agvas_runtime.segmenter import Segmenter
from agvas_runtime.verdict import AnswerKind, Recipe, Verdict
from agvas_train.checkpoint import default_checkpoint_path
from agvas_train.data.synth import generate
from agvas_train.model.agmd import fuse
from agvas_train.reference import ReferenceSegmenter

FRAME = next(made.image for index in count() if (made := generate(99, index)).mask.mean() > 0.03)
"""A frame with a large defect: the maps of one without any hardly differ, whatever becomes of them."""
ASKED = "Please segment the anomalies in this image."


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The model is small: a second thread would mostly wait for the first."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def reference() -> ReferenceSegmenter:
    return ReferenceSegmenter.open(threads=1)


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize("instruction", [None, "Could you localize the flaws in this image by segmentation?"])
def test_one_pass_writes_what_greedy_decoding_writes(
    segmenter: Segmenter, reference: ReferenceSegmenter, index: int, instruction: str | None
) -> None:
    image = generate(99, index).image
    found, expected = segmenter.segment(image, instruction), reference.segment(image, instruction)
    assert found.answer == expected.answer
    assert found.answer_kind is expected.answer_kind
    # the embedded bundle's 8-bit parts move probabilities a little
    np.testing.assert_allclose(found.probability, expected.probability, atol=0.25)
    assert found.scores.p_answer == pytest.approx(expected.scores.p_answer, abs=0.1)


def test_a_file_and_its_pixels_are_the_same(reference: ReferenceSegmenter, photo: Path) -> None:
    again = reference.segment(photo.read_bytes())
    assert reference.segment(photo).probability.tobytes() == again.probability.tobytes()


def embeds_of(reference: ReferenceSegmenter, instruction: str) -> Tensor:
    semantic = torch.from_numpy(reference.config.semantic_view.apply(FRAME))
    pixels = torch.from_numpy(reference.config.pixel_view.apply(FRAME)[0])
    return reference.prompt_embeds(instruction, reference.encode(semantic, pixels))


def followed(reference: ReferenceSegmenter, embeds: Tensor, tokens: list[int]) -> Tensor:
    """States [T + 1, d] of the last prompt token and the tokens, in one pass without a cache."""
    whole = torch.cat((embeds, reference.model.embed(torch.tensor([tokens], dtype=torch.long))), dim=1)
    return reference.model.hidden_states(whole)[0, embeds.shape[1] - 1 :]


@pytest.mark.parametrize("instruction", [ASKED, "What is shown in this image?"])
@torch.inference_mode()
def test_the_cache_changes_nothing(reference: ReferenceSegmenter, instruction: str) -> None:
    embeds = embeds_of(reference, instruction)
    written = reference.decode(embeds, 24)
    states = followed(reference, embeds, written.tokens)
    torch.testing.assert_close(written.states, states[: len(written.states)], atol=1e-4, rtol=0)
    end = [reference.prompter.end_id] if written.finished else []
    greedy = reference.model.logits(states).argmax(-1).tolist()
    assert greedy[: len(written.states)] == written.tokens + end


@pytest.mark.parametrize("instruction", [ASKED, "What is shown in this image?"])
@torch.inference_mode()
def test_decoding_writes_what_the_library_writes(reference: ReferenceSegmenter, instruction: str) -> None:
    embeds = embeds_of(reference, instruction)
    end = reference.prompter.end_id
    expected = reference.model.llava.generate(
        inputs_embeds=embeds, do_sample=False, max_new_tokens=24, eos_token_id=end, pad_token_id=end
    )[0].tolist()
    written = reference.decode(embeds, 24)
    assert written.tokens == [token for token in expected if token != end]
    assert written.finished == (end in expected)


class Script(nn.Module):
    """An output head that says tokens one after another, and the last one for ever; the highest id ties with each."""

    def __init__(self, tokens: tuple[int, ...], vocabulary: int) -> None:
        super().__init__()
        self.tokens, self.vocabulary, self.said = tokens, vocabulary, 0

    def forward(self, states: Tensor) -> Tensor:
        logits = torch.zeros(*states.shape[:-1], self.vocabulary)
        logits[..., [self.tokens[min(self.said, len(self.tokens) - 1)], -1]] = 3.0
        self.said += 1
        return logits


def saying(text: str, *, finished: bool = True, anchor_state: str = "token") -> ReferenceSegmenter:
    """A reference engine on the embedded checkpoint that writes this text."""
    segmenter = ReferenceSegmenter.open(threads=1, template_scores=False)
    checkpoint = segmenter.checkpoint
    model = checkpoint.config.model.model_copy(update={"anchor_state": anchor_state})
    checkpoint = replace(checkpoint, config=checkpoint.config.model_copy(update={"model": model}))
    tokens = checkpoint.prompter.answer(text, anchors=True)
    vocabulary = checkpoint.config.model.language["vocab_size"]
    checkpoint.model.llava.lm_head = Script(tokens if finished else tokens[:-1], vocabulary)
    return ReferenceSegmenter(checkpoint, template_scores=False)


@torch.inference_mode()
def expected_map(segmenter: ReferenceSegmenter, text: str, places: dict[int, int], shift: int = 1) -> np.ndarray:
    """P at the image's size from the anchors' places among the answer's tokens, without a cache."""
    semantic = torch.from_numpy(segmenter.config.semantic_view.apply(FRAME))
    pixels, resized = segmenter.config.pixel_view.apply(FRAME)
    visual = segmenter.model.encode(semantic, torch.from_numpy(pixels))
    tokens = list(segmenter.prompter.answer(text, anchors=True)[:-1])
    states = followed(segmenter, segmenter.prompt_embeds(ASKED, visual), tokens)
    present = tuple(places)
    products = segmenter.model.products(states[[places[kind] + shift for kind in present]][None], visual.pixel, present)
    small = fuse(products, 0.5, present)[0].numpy()
    return AnomalyMap(small, segmenter.config.pixel_view.size, resized, FRAME.shape[:2]).whole


def places_of(segmenter: ReferenceSegmenter, text: str) -> list[int]:
    """The places of all anchors among the answer's tokens."""
    tokens = segmenter.prompter.answer(text, anchors=True)
    return [place for place, token in enumerate(tokens) if token in segmenter.prompter.anchor_ids]


def is_empty(result: Result) -> bool:
    return not result.probability.any() and not result.mask.any() and not result.regions and not result.group_maps


def test_equal_logits_go_to_the_lowest_id() -> None:
    result = saying("Sure, it is [NOR][ANO][SEG].").segment(FRAME)
    assert result.answer == "Sure, it is [NOR][ANO][SEG]."
    assert result.scores.min_margin == 0


def test_logits_that_are_no_numbers_are_no_answer(reference: ReferenceSegmenter) -> None:
    segmenter = ReferenceSegmenter.open(threads=1, template_scores=False)
    with torch.no_grad():
        segmenter.model.llava.model.language_model.norm.weight.fill_(torch.nan)
    with pytest.raises(EngineError, match="not finite"):
        segmenter.segment(FRAME)


def test_the_map_of_one_group_comes_from_the_states_at_its_anchors() -> None:
    text = "Sure, it is [NOR][ANO][SEG]."
    segmenter = saying(text)
    result = segmenter.segment(FRAME)
    nor, ano, seg = places_of(segmenter, text)
    assert result.answer_kind is AnswerKind.SEGMENTED
    assert result.group_maps == ()
    expected = expected_map(segmenter, text, {0: nor, 1: ano, 2: seg})
    np.testing.assert_allclose(result.probability, expected, atol=1e-4)


def test_in_the_predicting_convention_the_states_are_those_before_the_anchors() -> None:
    text = "Sure, it is [NOR][ANO][SEG]."
    segmenter = saying(text, anchor_state="predicting")
    found = segmenter.segment(FRAME).probability
    nor, ano, seg = places_of(segmenter, text)
    places = {0: nor, 1: ano, 2: seg}
    np.testing.assert_allclose(found, expected_map(segmenter, text, places, shift=0), atol=1e-4)
    assert np.abs(found - expected_map(segmenter, text, places)).max() > 1e-3


def test_the_map_of_several_groups_is_their_pixelwise_maximum() -> None:
    text = "One is [NOR][ANO][SEG] and another, quite different one is [SEG]."
    segmenter = saying(text)
    result = segmenter.segment(FRAME)
    nor, ano, seg, alone = places_of(segmenter, text)
    first = expected_map(segmenter, text, {0: nor, 1: ano, 2: seg})
    second = expected_map(segmenter, text, {2: alone})
    assert (first > second + 1e-3).any()
    assert (second > first + 1e-3).any()
    for found, expected in zip(result.group_maps, (first, second), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_array_equal(result.probability, np.maximum(*result.group_maps))


def test_the_recipes_threshold_alpha_and_roi_take_the_place_of_the_models(reference: ReferenceSegmenter) -> None:
    absolute, relative = (reference.segment(FRAME, recipe=Recipe(alpha=alpha)).probability for alpha in (1, 0))
    assert np.abs(absolute - relative).max() > 0.01
    result = reference.segment(FRAME, recipe=Recipe(threshold=0.3, alpha=0.25, roi=(20, 10, 60, 10**6)))
    expected = np.zeros_like(absolute)
    expected[10:, 20:60] = (0.25 * absolute + 0.75 * relative)[10:, 20:60]
    np.testing.assert_allclose(result.probability, expected, atol=1e-6)
    np.testing.assert_array_equal(result.mask, result.probability > np.float32(0.3))
    with pytest.raises(InputError, match=r"recipe.roi: found .1000000, 0, 1000001, 1."):
        reference.segment(FRAME, recipe=Recipe(roi=(10**6, 0, 10**6 + 1, 1)))


@pytest.mark.parametrize(("text", "kinds"), [("It is [SEG].", [2]), ("It is [ANO].", [1]), ("[NOR][SEG].", [0, 2])])
def test_absent_anchors_are_left_out(text: str, kinds: list[int]) -> None:
    segmenter = saying(text)
    result = segmenter.segment(FRAME, mode=Mode.GENERAL, instruction=ASKED)
    assert result.answer_kind is AnswerKind.SEGMENTED
    expected = expected_map(segmenter, text, dict(zip(kinds, places_of(segmenter, text), strict=True)))
    np.testing.assert_allclose(result.probability, expected, atol=1e-4)


@pytest.mark.parametrize("text", ["There is a dark scratch [NOR][ANO][SEG]", "[NOR][ANO][SEG]. Normally it is even."])
@pytest.mark.parametrize("mode", [Mode.DESCRIBE, Mode.EXPLAIN])
def test_anchors_count_wherever_they_stand_in_the_text(text: str, mode: Mode) -> None:
    result = saying(text).segment(FRAME, mode=mode)
    assert (result.answer_kind, result.answer) == (AnswerKind.SEGMENTED, text)
    assert result.probability.any()


@pytest.mark.parametrize("text", ["It is [NOR][ANO][SEG]. It is", "The image appears to be normal."])
def test_an_answer_that_the_token_limit_stopped_is_no_answer(text: str) -> None:
    result = saying(text, finished=False).segment(FRAME)
    assert (result.verdict, result.answer_kind) == (Verdict.NO_ANSWER, AnswerKind.OTHER)
    assert result.reason.startswith("the answer was stopped by the limit of 128 tokens: ")
    assert result.answer.startswith(text)
    assert is_empty(result)


def test_the_token_limit_counts_the_end_token(reference: ReferenceSegmenter) -> None:
    text = "The image appears to be normal."
    needed = len(reference.prompter.answer(text, anchors=False))
    for limit, verdict in ((needed, Verdict.PASS), (needed - 1, Verdict.NO_ANSWER)):
        segmenter = ReferenceSegmenter(saying(text).checkpoint, max_new_tokens=limit, template_scores=False)
        assert segmenter.segment(FRAME).verdict is verdict


@pytest.mark.parametrize("mode", [Mode.DIRECT, Mode.DESCRIBE, Mode.EXPLAIN, Mode.GENERAL])
def test_a_rejection_passes_only_for_the_class_asked_for(mode: Mode) -> None:
    result = saying("I don't see any dents in this image.").segment(FRAME, mode=mode, class_name="dents")
    assert (result.verdict, result.answer_kind) == (Verdict.PASS, AnswerKind.REJECTED)
    assert is_empty(result)
    result = saying("I don't see any dents in this image.").segment(FRAME, mode=mode, class_name="cracks")
    assert (result.verdict, result.answer_kind) == (Verdict.NO_ANSWER, AnswerKind.OTHER)


@pytest.mark.parametrize(
    "text", ["The image appears to be", "The image appears to be normal. Or not.", "It is broken."]
)
def test_other_text_without_anchors_is_no_answer(text: str) -> None:
    result = saying(text).segment(FRAME)
    assert (result.verdict, result.answer) == (Verdict.NO_ANSWER, text)
    assert result.reason == f"the answer holds no anchors and is none of the rejections: {text!r}"
    assert is_empty(result)


def test_a_normal_look_stands_before_the_instruction_and_its_class_is_found() -> None:
    options = {"mode": Mode.DESCRIBE_PLUS, "class_name": "knots", "normal_look": "The wood has an even grain."}
    result = saying("No visible knots are present.").segment(FRAME, **options)
    assert result.instruction.startswith("The wood has an even grain. What are knots in this image?")
    assert result.verdict is Verdict.PASS


@pytest.mark.parametrize("text", ["It is a plate.", "The image appears to be normal.", "It is [NOR][ANO][SEG]."])
def test_a_conversation_is_no_inspection(text: str) -> None:
    result = saying(text).segment(FRAME, "What is this?", mode=Mode.CONVERSATION)
    assert (result.verdict, result.answer, result.instruction) == (Verdict.NO_ANSWER, text, "What is this?")
    assert result.reason.startswith("a conversation is no inspection: ")
    assert is_empty(result)


def test_probabilities_are_known_where_templates_answer(reference: ReferenceSegmenter) -> None:
    direct = reference.segment(FRAME)
    assert direct.scores.p_answer + direct.scores.p_reject > 0.5
    described = reference.segment(FRAME, mode=Mode.DESCRIBE).scores
    assert described.p_answer == 0 < described.p_reject
    assert described.anomaly == described.p_other == pytest.approx(1 - described.p_reject)
    talked = reference.segment(FRAME, "What is this?", mode=Mode.CONVERSATION)
    assert talked.scores == Scores.unknown(talked.scores.min_margin)
    plain = ReferenceSegmenter(reference.checkpoint, template_scores=False).segment(FRAME)
    assert plain.scores == Scores.unknown(direct.scores.min_margin)
    assert plain.probability.tobytes() == direct.probability.tobytes()


@pytest.fixture
def defects(tmp_path: Path) -> Path:
    """A data set of one normal and one defective image."""
    for kind in ("good", "spot"):
        image = np.full((96, 128, 3), 140, np.uint8)
        if kind == "spot":
            image[40:60, 50:70] = 15
            mask = tmp_path / "part" / "ground_truth" / kind / "0_mask.png"
            mask.parent.mkdir(parents=True)
            Image.fromarray((image[:, :, 0] == 15).astype(np.uint8) * 255).save(mask)
        path = tmp_path / "part" / "test" / kind / "0.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(image).save(path)
    return tmp_path


def reported(app: Typer, capfd: pytest.CaptureFixture[str], *arguments: object) -> dict:
    """What a command prints as JSON."""
    with pytest.raises(SystemExit) as left:
        console.run(app, [str(argument) for argument in arguments])
    out, err = capfd.readouterr()
    assert left.value.code == 0, err
    return json.loads(out)


def test_a_data_set_is_scored_in_any_mode(defects: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options = ("--mode", "describe-plus", "--normal-look", "The part is grey.", "--class-name", "spots")
    report = reported(evaluate_app, capfd, defects, "--engine", "reference", *options, "--threads", 1, "--json")
    assert (report["engine"], report["mode"]) == ("reference", "describe-plus")
    assert report["instruction"].startswith("The part is grey. What are spots in this image?")
    assert report["mean"]["images"] == 2
    options = ("--mode", "conversation", "--instruction", "What is shown?")
    report = reported(evaluate_app, capfd, defects, "--engine", "reference", *options, "--threads", 1, "--json")
    assert report["mean"]["no_answer"] == 2
    assert all(each["reason"].startswith("a conversation is no inspection: ") for each in report["no_answers"])


def test_any_mode_is_timed(capfd: pytest.CaptureFixture[str]) -> None:
    options = ("--mode", "explain", "--frames", 2, "--warmup", 0, "--threads", 1, "--no-alone", "--batch", 1, "--json")
    targets = (default_bundle_path(), default_checkpoint_path())
    bundle, measured = reported(bench_app, capfd, "engine", *targets, *options)["contenders"]
    assert (bundle["engine"], measured["engine"], measured["mode"]) == ("ort", "reference", "explain")
    assert measured["instruction"].startswith("Please segment the anomalies in this image and explain")
    assert (bundle["quality"]["against"], measured["quality"]) == (measured["name"], None)
    assert bundle["quality"]["iou_mean"] > 0.5
    assert len(measured["model_sha256"]) == 64
    assert "scores" not in measured["stages_ms"]  # the paper's route knows no probabilities of templates
