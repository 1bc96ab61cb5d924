"""The model's parts, shapes and sizes, against library implementations and the paper's numbers."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from agvas_train.checkpoint import Checkpoint, default_checkpoint_path, load_checkpoint
from agvas_train.data.batch import _cells
from agvas_train.model import FROM_SCRATCH, PRESETS, build_agvas
from agvas_train.model.spam import SPAM
from agvas_train.model.transformer import RandomPositionEncoding


@torch.no_grad()
def test_spam_is_multi_head_cross_attention() -> None:
    torch.manual_seed(0)
    spam = SPAM(embed_dim=64, num_heads=4, pixel_dim=24)
    oracle = nn.MultiheadAttention(64, 4, kdim=24, vdim=24, batch_first=True)
    for mine, theirs in ((spam.q_proj, "q"), (spam.k_proj, "k"), (spam.v_proj, "v")):
        getattr(oracle, f"{theirs}_proj_weight").copy_(mine.weight)
    oracle.in_proj_bias.copy_(torch.cat((spam.q_proj.bias, spam.k_proj.bias, spam.v_proj.bias)))
    oracle.out_proj.load_state_dict(spam.out_proj.state_dict())
    semantic, pixel = torch.randn(2, 9, 64), torch.randn(2, 24, 5, 5)
    pixels = pixel.flatten(2).transpose(1, 2)
    torch.testing.assert_close(spam(semantic, pixel), oracle(semantic, pixels, pixels)[0])


def test_spam_refuses_heads_that_do_not_divide_its_width() -> None:
    with pytest.raises(ValueError, match="embed_dim 10 is not a multiple of num_heads 4"):
        SPAM(embed_dim=10, num_heads=4, pixel_dim=8)


@pytest.mark.parametrize(
    ("preset", "part", "millions"),
    [("7b", "pixel_encoder", 637.0), ("7b", "spam", 27.5), ("0.5b", "pixel_encoder", 89.7), ("7b", "agmd", 3.8)],
)
def test_large_presets_are_only_other_numbers(preset: str, part: str, millions: float) -> None:
    with torch.device("meta"):
        model = build_agvas(PRESETS[preset]())
    count = sum(p.numel() for p in getattr(model, part).parameters())
    assert count / 1e6 == pytest.approx(millions, rel=0.005)


@pytest.mark.parametrize("preset", FROM_SCRATCH)
def test_tiny_presets_stay_within_their_budget(preset: str) -> None:
    """At most 1.5 GFLOP a frame and 2 M parameters (4 bytes each in the checkpoint)."""
    from torch.utils.flop_counter import FlopCounterMode

    config = PRESETS[preset]()
    model, side = build_agvas(config), config.pixel_view.size
    assert sum(p.numel() for p in model.parameters()) < 2e6
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        visual = model.encode(torch.zeros(1, 3, 96, 96), torch.zeros(1, 3, side, side))
        texts = model.embed(torch.zeros(1, 200, dtype=torch.long))
        states = model.hidden_states(torch.cat((visual.tokens, texts), dim=1))
        model.logits(states[:, -180:])
        model.products(states[:, -3:], visual.pixel, (0, 1, 2))
    assert counter.get_total_flops() <= 1.5e9


@torch.no_grad()
def test_semantic_features_are_llava_onevisions(small: Checkpoint) -> None:
    llava, pixels = small.model.llava.model, torch.randn(2, 3, 96, 96)
    hidden = llava.vision_tower(pixels, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(small.model.semantic_features(pixels), llava.multi_modal_projector(hidden))


@torch.no_grad()
def test_visual_tokens_are_semantic_newline_aligned(small: Checkpoint) -> None:
    model, config = small.model, small.config.model
    semantic = torch.randn(1, config.semantic_tokens, config.hidden_size)
    pixel = torch.randn(1, config.pixel_channels, config.grid, config.grid)
    tokens = model.visual_tokens(semantic, pixel)
    assert tokens.shape == (1, config.visual_tokens, config.hidden_size)
    count = config.semantic_tokens
    torch.testing.assert_close(tokens[:, :count], semantic)
    torch.testing.assert_close(tokens[0, count], model.llava.model.image_newline)
    torch.testing.assert_close(tokens[:, count + 1 :], model.spam(semantic, pixel))


@torch.no_grad()
def test_a_tree_mask_gives_every_path_its_own_causal_states(small: Checkpoint) -> None:
    """Prompt of 4, then two branches of one token each: each branch sees the prompt and itself only."""
    model = small.model
    embeds = model.embed(torch.tensor([[5, 6, 7, 8, 9, 10]]))
    mask = torch.ones(6, 6, dtype=torch.bool).tril()
    mask[5, 4] = False
    positions = torch.tensor([[0, 1, 2, 3, 4, 4]])
    tree = model.hidden_states(embeds, mask=mask[None, None], position_ids=positions)[0]
    for row, branch in ((4, [0, 1, 2, 3, 4]), (5, [0, 1, 2, 3, 5])):
        plain = model.hidden_states(embeds[:, branch])[0, -1]
        torch.testing.assert_close(tree[row], plain, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def trained() -> Checkpoint:
    """The embedded default: its weights mean something, so rounding them can be judged."""
    return load_checkpoint(default_checkpoint_path())


def test_the_embedded_checkpoint_has_convolutions_unprojected(trained: Checkpoint) -> None:
    assert trained.config.model.pixel_encoder == "conv"
    assert isinstance(trained.model.pixel_projection, nn.Identity)


@torch.no_grad()
def test_bfloat16_weights_take_float32_views_and_give_float32_maps(trained: Checkpoint) -> None:
    exact, coarse = trained.model, load_checkpoint(default_checkpoint_path()).model.to(torch.bfloat16)
    views = torch.randn(1, 3, 96, 96), torch.randn(1, 3, 288, 288)
    found, expected = [], []
    for model, results in ((coarse, found), (exact, expected)):
        visual = model.encode(*views)
        embeds = torch.cat((visual.tokens, model.embed(torch.tensor([[5, 6, 7]]))), dim=1)
        length = embeds.shape[1]
        bias = torch.full((length, length), torch.finfo(torch.float32).min).triu(1)[None, None]
        states = model.hidden_states(embeds, mask=bias)[:, -3:]
        results += [visual.tokens, visual.pixel, states, model.products(states, visual.pixel, (0, 1, 2))]
    assert [t.dtype for t in found] == [*[torch.bfloat16] * 3, torch.float32]
    for coarsely, exactly in zip(found, expected, strict=True):
        assert (coarsely.float() - exactly).norm() < 0.1 * exactly.norm()


@torch.no_grad()
def test_positions_stay_exact_in_16_bits() -> None:
    encoding = RandomPositionEncoding(features=64)
    exact = encoding(24)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(encoding(24), exact)
    coarse = nn.Sequential(encoding, nn.Linear(2, 2)).to(torch.bfloat16)
    assert (encoding.gaussian_matrix.dtype, coarse[1].weight.dtype) == (torch.float32, torch.bfloat16)
    assert torch.equal(encoding(24), exact)


def test_cells_are_the_share_that_a_mask_covers() -> None:
    mask = np.random.default_rng(0).random((40, 56)) > 0.5
    for canvas, size in ((64, 16), (56, 16), (518, 148)):  # a cell of 4 pixels; of 3.5, as CLIP and DINOv2 have
        height, width = 40 * canvas // 64, 56 * canvas // 64
        resized = Image.fromarray(mask.astype(np.float32)).resize((width, height), Image.Resampling.BOX)
        fine = np.zeros((canvas, canvas))
        fine[:height, :width] = np.asarray(resized)
        fine = fine.repeat(2, axis=0).repeat(2, axis=1)  # in half pixels every cell is whole
        cell = 2 * canvas // size
        expected = fine.reshape(size, cell, size, cell).mean(axis=(1, 3))
        found = _cells(mask, height, width, canvas, size)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert not _cells(None, height, width, canvas, size).any()
