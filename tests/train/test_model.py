"""The model's parts, shapes and sizes, against library implementations and the paper's numbers."""

import pytest
import torch
from torch import nn

from agvas_train.checkpoint import Checkpoint
from agvas_train.model import PRESETS, build_agvas
from agvas_train.model.spam import SPAM


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


def test_tiny_stays_within_its_budget() -> None:
    """At most 1.5 GFLOP a frame and 2 M parameters (4 bytes each in the checkpoint)."""
    from torch.utils.flop_counter import FlopCounterMode

    model = build_agvas(PRESETS["tiny"](1536))
    assert sum(p.numel() for p in model.parameters()) < 2e6
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        visual = model.encode(torch.zeros(1, 3, 96, 96), torch.zeros(1, 3, 256, 256))
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
    pixel = torch.randn(1, config.agmd.transformer_dim, config.grid, config.grid)
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
