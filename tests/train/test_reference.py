"""The single pass against the paper's own route, token by token, on the embedded checkpoint and its bundle."""

from pathlib import Path

import numpy as np
import pytest

from agvas_runtime.segmenter import Segmenter
from agvas_train.data.synth import generate
from agvas_train.reference import ReferenceSegmenter


@pytest.fixture(scope="module")
def reference() -> ReferenceSegmenter:
    return ReferenceSegmenter.open()


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


def test_the_token_limit_ends_an_answer_as_other(reference: ReferenceSegmenter, photo: Path) -> None:
    limited = ReferenceSegmenter(reference.checkpoint, max_new_tokens=2)
    result = limited.segment(photo)
    assert result.answer_kind.value == "other"
    assert not result.mask.any()
