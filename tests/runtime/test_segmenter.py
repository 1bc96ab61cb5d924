"""The segmenter on the embedded bundle: sizes, scores, determinism, odd images, answers outside the templates."""

import io
import json
import shutil
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agvas_runtime import pipeline
from agvas_runtime.bundle import Bundle, default_bundle_path, write_manifest
from agvas_runtime.engines import Tensors
from agvas_runtime.engines.ort import OrtEngine
from agvas_runtime.errors import BundleError, EngineError, InputError
from agvas_runtime.manifest import Manifest
from agvas_runtime.result import AnswerKind, Verdict
from agvas_runtime.segmenter import Segmenter
from agvas_runtime.verdict import Recipe
from tests.runtime.test_writer import scripted


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (37, 5), (96, 96), (300, 200)])
def test_map_and_mask_have_the_images_own_size(segmenter: Segmenter, size: tuple[int, int]) -> None:
    frame = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    result = segmenter.segment(frame)
    assert result.size == result.mask.shape == size
    assert result.probability.dtype == np.float32
    assert 0 <= result.probability.min() <= result.probability.max() <= 1


def test_a_defect_is_found_where_it_is(segmenter: Segmenter) -> None:
    """A plain speckled surface with a dark disc: the map is highest inside the disc."""
    rng = np.random.default_rng(3)
    frame = (150 + rng.normal(0, 6, (240, 240, 1))).clip(0, 255).astype(np.uint8).repeat(3, axis=2)
    y, x = np.mgrid[:240, :240]
    disc = (y - 90) ** 2 + (x - 160) ** 2 < 18**2
    frame[disc] = 30
    result = segmenter.segment(frame)
    assert result.answer_kind is AnswerKind.SEGMENTED
    assert disc[np.unravel_index(result.probability.argmax(), disc.shape)]
    assert result.probability[disc].mean() > 2 * result.probability[~disc].mean()


def test_scores_are_probabilities(segmenter: Segmenter, photo: Path) -> None:
    scores = segmenter.segment(photo).scores
    assert scores.p_answer + scores.p_reject + scores.p_other == pytest.approx(1, abs=1e-4)
    assert scores.anomaly == pytest.approx(scores.p_answer / (scores.p_answer + scores.p_reject))
    assert scores.min_margin >= 0


def test_stages_add_up_to_the_total(segmenter: Segmenter, photo: Path) -> None:
    timings = segmenter.segment(photo).timings_ms
    stages = ["decode", "preprocess", "encoders", "spam", "llm", "text", "decoder", "postprocess"]
    assert list(timings) == [*stages, "total"]
    assert sum(timings[stage] for stage in stages) == pytest.approx(timings["total"])


def test_file_bytes_and_array_give_the_same_bytes(segmenter: Segmenter, photo: Path) -> None:
    array = np.asarray(Image.open(photo).convert("RGB"))
    results = [segmenter.segment(image) for image in (photo, photo.read_bytes(), array, array)]
    assert len({result.probability.tobytes() for result in results}) == 1
    assert len({result.mask.tobytes() for result in results}) == 1


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16", "1", "LA", "CMYK"])
def test_every_pixel_mode_gets_a_mask(segmenter: Segmenter, photo: Path, mode: str) -> None:
    image = Image.open(photo)
    image = (
        Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
        if mode == "I;16"
        else image.convert(mode)
    )
    file = io.BytesIO()
    image.save(file, "TIFF" if mode == "CMYK" else "PNG")
    assert segmenter.segment(file.getvalue()).mask.shape == (image.height, image.width)


def test_grey_in_16_bits_is_the_same_image(segmenter: Segmenter, photo: Path) -> None:
    grey = np.asarray(Image.open(photo).convert("L"))
    eight, sixteen = io.BytesIO(), io.BytesIO()
    Image.fromarray(grey).save(eight, "PNG")
    Image.fromarray(grey.astype(np.uint16) * 257).save(sixteen, "PNG")
    expected = segmenter.segment(eight.getvalue())
    assert segmenter.segment(sixteen.getvalue()).probability.tobytes() == expected.probability.tobytes()


def test_twelve_megapixels(segmenter: Segmenter) -> None:
    frame = np.random.default_rng(0).integers(0, 255, (3000, 4000, 1), np.uint8).repeat(3, axis=2)
    assert segmenter.segment(frame).mask.shape == (3000, 4000)


def with_a_patch(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A plain speckled surface with a dark patch, RGB."""
    grey = rng.normal(140, 8, size).clip(0, 255).astype(np.uint8)
    grey[size[0] // 3 : size[0] // 2, size[1] // 4 : size[1] // 3] = 20
    return grey[:, :, None].repeat(3, axis=2)


@pytest.mark.parametrize("size", [(40, 60), (1100, 900)])
def test_a_grey_frame_is_answered_as_the_same_in_rgb(segmenter: Segmenter, size: tuple[int, int]) -> None:
    grey = np.ascontiguousarray(with_a_patch(size, np.random.default_rng(5))[:, :, 0])
    result, expected = segmenter.segment(grey), segmenter.segment(grey[:, :, None].repeat(3, axis=2))
    assert result.probability.tobytes() == expected.probability.tobytes()
    assert (result.answer, result.regions) == (expected.answer, expected.regions)


@pytest.mark.parametrize("size", [(288, 288), (700, 1200)])
def test_threads_change_nothing(segmenter: Segmenter, size: tuple[int, int]) -> None:
    frame = with_a_patch(size, np.random.default_rng(6))
    expected = segmenter.segment(frame)
    assert expected.mask.any()
    with closing(Segmenter.open(threads=1)) as alone, closing(Segmenter.open(threads=3)) as three:
        for found in (alone.segment(frame), three.segment(frame)):
            assert found.probability.tobytes() == expected.probability.tobytes()
            assert (found.scores, found.regions) == (expected.scores, expected.regions)


def test_whole_maps_are_the_same_maps(segmenter: Segmenter) -> None:
    frames = [with_a_patch((700, 1200), np.random.default_rng(seed)) for seed in (6, 7)]
    later, at_once = (segmenter.segment_batch(frames, whole_maps=whole) for whole in (False, True))
    for one, other in zip(later, at_once, strict=True):
        assert one.map._left
        assert not other.map._left
        assert one.probability.tobytes() == other.probability.tobytes()


def test_a_closed_segmenter_says_so() -> None:
    segmenter = Segmenter.open()
    result = segmenter.segment(with_a_patch((700, 1200), np.random.default_rng(6)))
    segmenter.close()
    assert result.probability.max() > 0.5  # what it left for later needs nobody
    for size in ((40, 60), (700, 1200)):
        with pytest.raises(EngineError, match="the engines are closed"):
            segmenter.segment(np.zeros((*size, 3), np.uint8))


@pytest.mark.parametrize(
    ("frame", "found"),
    [
        (np.zeros((4, 4, 1), np.uint8), r"uint8 \[4, 4, 1\], expected uint8 RGB \[H, W, 3\] or grey \[H, W\]"),
        (np.zeros(4, np.uint8), r"uint8 \[4\]"),
        (np.zeros((4, 4, 3), np.float32), r"float32 \[4, 4, 3\]"),
        (np.zeros((0, 4, 3), np.uint8), r"uint8 \[0, 4, 3\]"),
    ],
)
def test_an_array_that_is_no_rgb_frame_is_refused(segmenter: Segmenter, frame: np.ndarray, found: str) -> None:
    with pytest.raises(InputError, match=found):
        segmenter.segment(frame)


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(InputError, match="engine 'cuda' does not run bundles"):
        Segmenter.open(engine="cuda")


def test_a_failing_encoder_leaves_the_other_at_rest(segmenter: Segmenter) -> None:
    """Else the next frame would run it a second time at once."""

    class Slow(OrtEngine):
        done = False

        def run(self, feeds: Tensors) -> Tensors:
            time.sleep(0.3)
            self.done = True
            return super().run(feeds)

    class Failing(OrtEngine):
        def run(self, feeds: Tensors) -> Tensors:
            raise EngineError("graph pixel_encoder: out of memory")

    slow, failing = (
        kind(segmenter.bundle.graph_path(name), 1)
        for kind, name in ((Slow, "semantic_encoder"), (Failing, "pixel_encoder"))
    )
    engines = {**segmenter.pipeline.engines, "semantic_encoder": slow, "pixel_encoder": failing}
    with pytest.raises(EngineError, match="out of memory"):
        Segmenter(segmenter.bundle, engines).segment(np.zeros((8, 8, 3), np.uint8))
    assert slow.done


def altered(folder: Path, file: str, change: Callable[[dict], object]) -> Path:
    """The embedded bundle with another templates.json or manifest.json, as complete as it was."""
    shutil.copytree(default_bundle_path(), folder)
    content = json.loads((folder / file).read_text("utf-8"))
    change(content)
    (folder / file).write_text(json.dumps(content), "utf-8")
    manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    write_manifest(folder, Manifest.model_validate({**manifest, "files": {}}))
    return folder


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"direct_answers": []}, "direct_answers: .* at least 1 item"),
        ({"describe_instructions": []}, "describe_instructions: .* at least 1 item"),
        ({"rejections": []}, "rejections: .* at least 1 item"),
        ({"direct_answers": ["[NOR][ANO][SEG].", ""]}, "direct_answers.1: found '', expected .* in it, in order"),
        (
            {"direct_answers": ["It is [SEG]."]},
            "direct_answers.0: found 'It is .SEG..', expected .NOR., .ANO., .SEG. in",
        ),
        ({"direct_answers": ["[ANO][NOR][SEG]"]}, "direct_answers.0: found .*, in order"),
        ({"direct_answers": ["[NOR][ANO][SEG][SEG]"]}, "direct_answers.0: found .*, in order"),
    ],
)
def test_templates_that_no_pass_can_be_made_of_are_refused(tmp_path: Path, change: dict, fault: str) -> None:
    folder = altered(tmp_path / "bundle", "templates.json", lambda content: content.update(change))
    with pytest.raises(BundleError, match=rf"templates\.json: {fault}[^\n]*$"):
        Segmenter.open(folder, threads=1)


@pytest.mark.parametrize(
    ("field", "fault"),
    [
        ("hidden_size", "graph spam: visual is .*"),
        ("visual_tokens", "graph spam: visual is .*"),
        ("map_size", "graph decoder: map is .*"),
        ("canvas", "graph pixel_encoder: pixels is .*"),
    ],
)
def test_numbers_that_the_graphs_do_not_have_are_refused(tmp_path: Path, field: str, fault: str) -> None:
    def change(manifest: dict) -> None:
        manifest["model"][field] += 4
        manifest["preprocessing"]["pixel"]["size"] = manifest["model"]["canvas"]

    bundle = Bundle.open(altered(tmp_path / "bundle", "manifest.json", change))
    with pytest.raises(BundleError, match=rf"bundle: {fault}, by the manifest's model and preprocessing it is \[any, "):
        pipeline.Pipeline(bundle, {})


def test_a_graph_of_other_inputs_is_refused(tmp_path: Path) -> None:
    def flat(manifest: dict) -> None:
        manifest["graphs"]["llm"]["inputs"][0]["shape"] = [1]

    def nameless(manifest: dict) -> None:
        manifest["graphs"]["decoder"]["inputs"][0]["name"] = "state"

    for number, (change, fault) in enumerate(
        ((flat, r"graph llm: before is \[1\], .* it is \[1, any, \d+\]$"), (nameless, "decoder has no tensor states$"))
    ):
        bundle = Bundle.open(altered(tmp_path / str(number), "manifest.json", change))
        with pytest.raises(BundleError, match=fault):
            pipeline.Pipeline(bundle, {})


class _Greedy:
    """The real language model's graph, but for the greedy token it reports at the last prompt token."""

    def __init__(self, segmenter: Segmenter, token: int) -> None:
        self._engine, self._token = segmenter.pipeline.engines["llm"], token

    def run(self, feeds: Tensors) -> Tensors:
        outputs = self._engine.run(feeds)
        outputs["greedy"][0, 0] = self._token
        return outputs


def _answering(segmenter: Segmenter, token: int) -> Segmenter:
    return Segmenter(segmenter.bundle, {**segmenter.pipeline.engines, "llm": _Greedy(segmenter, token)})


def test_an_answer_outside_the_templates_is_no_answer(segmenter: Segmenter, photo: Path) -> None:
    result = scripted(segmenter, "Yes, it is.").segment(photo, recipe=Recipe(min_area_px=1))
    assert result.verdict is Verdict.NO_ANSWER
    assert result.answer_kind is AnswerKind.OTHER
    assert not result.mask.any()
    assert result.reason.startswith("the answer holds no anchors and is none of the rejections: 'Y")
    assert (result.one_pass, result.proved_tokens) == (False, 0)
    assert result.tokens > 1


def test_a_rejection_is_a_pass_with_an_empty_map(segmenter: Segmenter, photo: Path) -> None:
    """Its first token is forced; the rest of the sentence is the model's own choice."""
    first = segmenter.prompter.answer("Nothing unusual is found in this image.", anchors=False)[0]
    result = _answering(segmenter, first).segment(photo)
    assert result.answer_kind is AnswerKind.REJECTED
    assert result.verdict is Verdict.PASS
    assert not result.probability.any()
    assert result.answer == "Nothing unusual is found in this image."


def test_many_instructions_do_not_fill_the_memory(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    most = 2**21
    monkeypatch.setattr(pipeline, "PLANS_KEPT_BYTES", most)
    plans = segmenter.pipeline._plans
    asked = [f"Please segment the class of defects number {number} in this image." for number in range(20)]
    for instruction in asked:
        segmenter.segment(np.zeros((32, 32, 3), np.uint8), instruction)
    assert sum(value.nbytes for _, feeds in plans.values() for value in feeds.values()) <= most
    assert 1 < len(plans) < len(asked)
    assert [instruction for instruction, _ in plans] == asked[-len(plans) :]


@pytest.mark.parametrize("output", ["map", "edge_logprob"])
def test_numbers_that_are_none_are_no_pass(segmenter: Segmenter, photo: Path, output: str) -> None:
    name = "decoder" if output == "map" else "llm"

    class Broken:
        def run(self, feeds: Tensors) -> Tensors:
            outputs = segmenter.pipeline.engines[name].run(feeds)
            return {**outputs, output: np.full_like(outputs[output], np.nan)}

    broken = Segmenter(segmenter.bundle, {**segmenter.pipeline.engines, name: Broken()})
    with pytest.raises(EngineError, match="not finite"):
        broken.segment(photo)


@pytest.mark.parametrize("image", [None, 5, bytearray(b"x")])
def test_what_is_no_image_at_all_is_refused(segmenter: Segmenter, image: object) -> None:
    with pytest.raises(InputError, match=f"found {type(image).__name__}, expected an array, bytes, or a path"):
        segmenter.segment(image)  # type: ignore[arg-type]
