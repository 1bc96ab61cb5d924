"""The folded attention between tokens and pixels against the transformer that it stands for."""

from copy import deepcopy

import numpy as np
import onnxruntime
import pytest
import torch

from agvas_export.two_way import fold_attention
from agvas_runtime.bundle import default_bundle_path
from agvas_runtime.plan import HIDDEN
from agvas_train.model.transformer import TwoWayTransformer


@pytest.mark.parametrize(("depth", "heads"), [(2, 4), (1, 1), (3, 8)])
@pytest.mark.parametrize("hidden", [(), (1,), (0, 3)])
@torch.no_grad()
def test_it_gives_the_same_tokens_and_pixels(depth: int, heads: int, hidden: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    whole = TwoWayTransformer(depth=depth, embedding_dim=32, num_heads=heads, mlp_dim=48)
    for parameter in whole.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    folded = deepcopy(whole)
    fold_attention(folded)
    pixels, places, tokens = torch.randn(2, 32, 7, 5), torch.randn(1, 32, 7, 5), torch.randn(2, 6, 32)
    bias = torch.zeros(2, 1, 1, 6)
    bias[1, ..., list(hidden)] = HIDDEN
    for given in (None, bias):
        expected, found = whole(pixels, places, tokens, given), folded(pixels, places, tokens, given)
        for one, other in zip(expected, found, strict=True):
            torch.testing.assert_close(other, one, atol=2e-5, rtol=2e-5)
    assert hidden == () or not torch.allclose(whole(pixels, places, tokens)[0][1], expected[0][1], atol=1e-3)


def test_no_projection_of_a_pixel_is_left() -> None:
    folded = TwoWayTransformer(depth=2, embedding_dim=32, num_heads=4, mlp_dim=48)
    fold_attention(folded)
    linear = [name for name, module in folded.named_modules() if isinstance(module, torch.nn.Linear)]
    assert all("self_attn" in name or "mlp" in name for name in linear)
    assert len(linear) == 2 * 6


def test_the_embedded_decoder_gives_the_same_bits_on_one_thread_and_on_two() -> None:
    rng, maps = np.random.default_rng(0), []
    feeds = {
        "states": rng.standard_normal((1, 3, 128), np.float32),
        "present": np.ones((1, 3), np.float32),
        "pixel": rng.standard_normal((1, 256, 36, 36), np.float32),
        "alpha": np.array(0.5, np.float32),
    }
    for threads in (1, 2):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(str(default_bundle_path() / "graphs" / "decoder.onnx"), options)
        maps.append(session.run(None, feeds)[0])
    np.testing.assert_array_equal(*maps)
