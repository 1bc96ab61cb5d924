"""The compiled decoder says and draws what the reference does. Compiling takes most of a minute: one test."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from agvas_runtime.errors import EngineError
from agvas_train.compiled_decode import CompiledDecodeSegmenter, _compiled
from agvas_train.data.synth import generate
from agvas_train.reference import ReferenceSegmenter


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The model is small: a second thread would mostly wait for the first."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@torch.inference_mode()
def test_compiled_decoding_is_the_references(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_DEBUG_COMPILE", "1")  # g++ need not optimise what runs a few times
    reference = ReferenceSegmenter.open(threads=1, template_scores=False)
    compiled = CompiledDecodeSegmenter.open(threads=1, template_scores=False)
    for index in range(4):  # the cache is used again: nothing of the last image may be seen
        image = generate(7, index).image
        found, expected = compiled.segment(image), reference.segment(image)
        assert (found.answer, found.verdict) == (expected.answer, expected.verdict)
        np.testing.assert_allclose(found.probability, expected.probability, atol=1e-4)
        assert found.scores.min_margin == pytest.approx(expected.scores.min_margin, abs=1e-3)
    embeds = torch.randn(1, 93, compiled.config.language["hidden_size"], generator=torch.Generator().manual_seed(0))
    for limit in (1, 3, 40):  # noise for a prompt: a text of its own, and a cut one
        found, expected = compiled.decode(embeds, limit), reference.decode(embeds, limit)
        assert (found.tokens, found.finished) == (expected.tokens, expected.finished)
        torch.testing.assert_close(found.states, expected.states, atol=1e-4, rtol=0)
    # the model itself is left as it was: others may use it
    plain = ReferenceSegmenter(compiled.checkpoint, template_scores=False).decode(embeds, 3)
    assert plain.tokens == reference.decode(embeds, 3).tokens


def test_without_a_compiler_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("nowhere-g++",))
    monkeypatch.setattr(torch._inductor.config, "force_disable_caches", True)
    with pytest.raises(EngineError, match=r"^engine compiled-decode needs a C\+\+ compiler: install g\+\+") as raised:
        _compiled(lambda x: torch.sin(x) + 1, {})(torch.ones(37))
    assert "\n" not in str(raised.value)


class Constant(torch.nn.Module):
    """An output head that says the same of every state."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__()
        self.values = torch.tensor(logits)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.values


@pytest.mark.parametrize(
    ("logits", "token"), [([0.0, 2.0, 1.0, 2.0], 1), ([5.0, 2.0, 5.0, 5.0], 0), ([0.0, 1.0, 2.0, 3.0], 3)]
)
def test_equal_logits_go_to_the_lowest_id(logits: list[float], token: int) -> None:
    compiled = CompiledDecodeSegmenter.open(threads=1, template_scores=False)
    compiled.model.llava.lm_head = Constant(logits)
    compiled._token_ids = torch.arange(4)
    found, _, margin = compiled._pick(torch.zeros(1))
    assert (int(found), float(margin)) == (token, sorted(logits)[-1] - sorted(logits)[-2])
    compiled.model.llava.lm_head = Constant([torch.nan] * 4)
    found, _, margin = compiled._pick(torch.zeros(1))
    assert int(found) < 4
    assert margin.isnan()
