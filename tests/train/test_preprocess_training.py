"""The runtime's views are training's, bit for bit, and those of the encoders' own publishers within BOUND."""

import ast
from collections.abc import Callable
from functools import cache
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from agvas_runtime.engines.ort import OrtEngine
from agvas_runtime.frames import read_image
from agvas_runtime.preprocess import PixelView
from agvas_runtime.segmenter import Segmenter
from agvas_train.checkpoint import Checkpoint, default_checkpoint_path, load_checkpoint
from agvas_train.data.batch import make_example
from agvas_train.data.conversation import Task, Turn
from agvas_train.data.stream import TurnStream
from agvas_train.data.synth import SynthConfig, generate
from agvas_train.data.synth_turns import SynthTurns
from agvas_train.model.build import seven_b, tiny
from tests.conftest import DEMO_FRAMES

BOUND = 1e-6
"""In units of the normalised views, of which a grey level is at least 0.0078: the resized bytes are the same ones."""

PRESETS = {"tiny": tiny(1024), "7b": seven_b()}
SIZES = [(1, 1), (1, 2000), (2000, 1), (3, 2), (61, 97), (96, 96), (256, 256), (383, 385), (384, 384), (1024, 1024)]
LARGER = [(1023, 1025), (768, 1366), (1537, 1111)]


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * 10_000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def photos() -> list[Path]:
    return sorted(DEMO_FRAMES.glob("*.jpg"))


@pytest.fixture(scope="module")
def embedded() -> Checkpoint:
    return load_checkpoint(default_checkpoint_path(), device="cpu")


@pytest.fixture
def fed(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch):
    """What the bundle's two encoders are fed with for a frame."""
    run, seen = OrtEngine.run, {}

    def spied(engine: OrtEngine, feeds: dict) -> dict:
        seen[engine.name] = feeds
        return run(engine, feeds)

    monkeypatch.setattr(OrtEngine, "run", spied)

    def feed(frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        segmenter.segment(frame)
        return tuple(np.asarray(seen[name]["pixels"]) for name in ("semantic_encoder", "pixel_encoder"))

    return feed


def assert_same_bits(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == expected.dtype == np.float32
    assert found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()


def test_a_training_batch_holds_what_the_graphs_are_fed(embedded: Checkpoint, fed) -> None:
    synth = SynthConfig(min_side=61, max_side=301)
    stream = TurnStream(
        SynthTurns(embedded.templates, {Task.DIRECT: 1.0}, synth, seed=5),
        config=embedded.config.model,
        prompter=embedded.prompter,
        batch_size=6,
        micro_batch=6,
        start=0,
        stop=1,
    )
    (batch,) = stream
    frames = [generate(5, index, synth).image for index in range(6)]
    assert len({frame.shape for frame in frames}) > 3
    for number, frame in enumerate(frames):
        semantic, pixel = fed(frame)
        assert_same_bits(semantic, batch.semantic[number : number + 1].numpy())
        assert_same_bits(pixel, batch.pixel[number : number + 1].numpy())


@pytest.mark.parametrize("size", SIZES[:9])
def test_an_example_of_any_size_holds_what_the_graphs_are_fed(embedded: Checkpoint, fed, size) -> None:
    frame = noise(*size)
    turn = Turn(Task.DIRECT, "Please segment the dents in this image.", "No dents detected. ", False, None)
    example = make_example(frame, turn, embedded.prompter, embedded.config.model)
    semantic, pixel = fed(frame)
    assert_same_bits(semantic[0], example.semantic)
    assert_same_bits(pixel[0], example.pixel)


def test_a_cell_that_the_images_border_cuts_has_the_share_of_what_lies_inside(embedded: Checkpoint) -> None:
    frame = noise(1000, 615)  # its longer side fills the view, the shorter one ends within a cell
    mask = np.ones((1000, 615), np.bool_)
    turn = Turn(Task.DIRECT, "Please segment the dents in this image.", "It is [NOR][ANO][SEG].", True, mask)
    example = make_example(frame, turn, embedded.prompter, embedded.config.model)
    assert example.valid.any()
    assert not example.valid.all()
    np.testing.assert_allclose(example.target[example.valid], 1, atol=1e-5)
    assert not example.target[~example.valid].any()


def compare(frame: np.ndarray, preset: str) -> None:
    """Both views against transformers' processors; the padding must be zero, or the mirrored frame, to the bit."""
    views = PRESETS[preset]
    side, canvas = views.semantic_view.size, views.pixel_view.size
    siglip = SiglipImageProcessorPil(size={"height": side, "width": side})
    sam = SamImageProcessorPil(size={"longest_edge": canvas}, pad_size={"height": canvas, "width": canvas})
    options = {"input_data_format": "channels_last", "return_tensors": "np"}

    semantic = views.semantic_view.apply(frame)
    np.testing.assert_allclose(semantic, siglip(frame, **options)["pixel_values"], rtol=0, atol=BOUND)

    pixel, (height, width) = views.pixel_view.apply(frame)
    covered = pixel[..., :height, :width]
    around = ((0, 0), (0, 0), (0, canvas - height), (0, canvas - width))
    padded = np.pad(covered, around, mode="symmetric" if views.pixel_view.mirror else "constant")
    np.testing.assert_array_equal(pixel, padded)
    if 0 in published_size(*frame.shape[:2], canvas):  # SAM cannot take it; ours is one pixel high or wide
        assert min(height, width) == 1
        return
    theirs = sam(frame, **options)
    assert (height, width) == tuple(theirs["reshaped_input_sizes"][0])
    found = np.pad(covered, around) if views.pixel_view.mirror else pixel
    np.testing.assert_allclose(found, theirs["pixel_values"], rtol=0, atol=BOUND)


@pytest.mark.parametrize("size", [*SIZES, *LARGER])
@pytest.mark.parametrize("preset", PRESETS)
def test_noise_looks_as_to_siglip_s_and_sam_s_own_processors(preset: str, size: tuple[int, int]) -> None:
    compare(noise(*size), preset)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("size", [(97, 61), (900, 31), (3000, 400)])
def test_tall_noise_does_where_pil_resizes_along_the_rows_first(
    preset: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As PIL did up to 12, and does in two steps from 13 on: what a frame looks like must not depend on its version."""
    resize = Image.Image.resize

    def in_two_steps(image: Image.Image, size: tuple[int, int], *how: object, **more: object) -> Image.Image:
        return resize(resize(image, (size[0], image.height), *how, **more), size, *how, **more)

    monkeypatch.setattr(Image.Image, "resize", in_two_steps)
    compare(noise(*size), preset)


@pytest.mark.parametrize("photo", photos(), ids=lambda path: path.stem)
def test_photos_look_as_to_siglip_s_and_sam_s_own_processors(photo: Path) -> None:
    compare(read_image(photo), "7b")


@pytest.mark.parametrize("value", [0, 255])
def test_black_and_white_are_within_the_bound_too(value: int) -> None:
    compare(np.full((40, 30, 3), value, np.uint8), "7b")


@cache
def _published() -> Callable[[int, int, int], tuple[int, int]]:
    # by its distribution: other tests have a bare module of that name
    source = Path(str(distribution("segment_anything").locate_file("segment_anything/utils/transforms.py"))).read_text()
    (function,) = (n for n in ast.walk(ast.parse(source)) if getattr(n, "name", "") == "get_preprocess_shape")
    function.decorator_list = []
    names: dict = {"Tuple": tuple}
    exec(compile(ast.Module([function], []), "transforms.py", "exec"), names)
    return names["get_preprocess_shape"]


def published_size(height: int, width: int, side: int) -> tuple[int, int]:
    """segment-anything's own function, out of its source: the package cannot be imported without torchvision."""
    return _published()(height, width, side)


@pytest.mark.parametrize("side", [256, 336, 384, 518, 1024])
def test_the_resized_size_is_segment_anything_s(side: int) -> None:
    view = PixelView(size=side, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    pairs = np.random.default_rng(side).integers(1, 5000, (20_000, 2)).tolist()
    halves = [(2 * side, odd) for odd in range(1, 2 * side, 2)]  # their short side ends in exactly one half
    for height, width in [*pairs, *halves, *(pair[::-1] for pair in halves), (1, 5000), (5000, 1), (side, side)]:
        published = published_size(height, width, side)
        assert view.resized(height, width) == tuple(max(length, 1) for length in published)
        assert max(published) == side
