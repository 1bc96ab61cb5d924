"""AGMD against segment-anything's own mask decoder, and the fusion of the maps."""

import pytest
import torch

from agvas_train.model.agmd import AGMD, ANO, NOR, SEG, fuse, map_logits
from agvas_train.model.transformer import RandomPositionEncoding, TwoWayTransformer

from .sam import import_segment_anything

import_segment_anything()
from segment_anything.modeling.mask_decoder import MaskDecoder  # noqa: E402
from segment_anything.modeling.prompt_encoder import PositionEmbeddingRandom  # noqa: E402
from segment_anything.modeling.transformer import TwoWayTransformer as SamTransformer  # noqa: E402


@pytest.fixture(scope="module")
def agmd() -> AGMD:
    torch.manual_seed(0)
    transformer = TwoWayTransformer(depth=2, embedding_dim=256, num_heads=8, mlp_dim=2048)
    return AGMD(transformer=transformer, transformer_dim=256).eval()


@pytest.fixture(scope="module")
def sam(agmd: AGMD) -> MaskDecoder:
    """SAM's decoder with AGMD's weights: its IoU token plays t_nor, its two mask tokens t_ano and t_seg."""
    decoder = MaskDecoder(
        transformer_dim=256,
        transformer=SamTransformer(depth=2, embedding_dim=256, num_heads=8, mlp_dim=2048),
        num_multimask_outputs=1,
    ).eval()
    decoder.transformer.load_state_dict(agmd.transformer.state_dict())
    decoder.output_upscaling.load_state_dict(agmd.output_upscaling.state_dict())
    for mine, theirs in zip(agmd.output_hypernetworks_mlps[1:], decoder.output_hypernetworks_mlps, strict=True):
        theirs.load_state_dict(mine.state_dict())
    with torch.no_grad():
        decoder.iou_token.weight.copy_(agmd.anchor_tokens.weight[:1])
        decoder.mask_tokens.weight.copy_(agmd.anchor_tokens.weight[1:])
    return decoder


@torch.no_grad()
def test_products_equal_sams_mask_decoder(agmd: AGMD, sam: MaskDecoder) -> None:
    anchors, pixel = torch.randn(1, 3, 256), torch.randn(1, 256, 16, 16)
    expected, _ = sam.predict_masks(
        image_embeddings=pixel,
        image_pe=agmd.pe_layer(16),
        sparse_prompt_embeddings=anchors,
        dense_prompt_embeddings=torch.zeros_like(pixel),
    )
    found = agmd(anchors, pixel)[:, 1:]
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@torch.no_grad()
def test_position_encoding_equals_sams() -> None:
    mine, theirs = RandomPositionEncoding(features=128), PositionEmbeddingRandom(128)
    theirs.positional_encoding_gaussian_matrix.copy_(mine.gaussian_matrix)
    torch.testing.assert_close(mine(24)[0], theirs((24, 24)))


@torch.no_grad()
def test_absent_anchors_are_left_out(agmd: AGMD) -> None:
    anchors, pixel = torch.randn(1, 1, 256), torch.randn(1, 256, 8, 8)
    alone = agmd(anchors, pixel, (SEG,))
    assert alone.shape == (1, 1, 32, 32)
    agmd.anchor_tokens.weight[NOR] += 1
    torch.testing.assert_close(agmd(anchors, pixel, (SEG,)), alone)
    agmd.anchor_tokens.weight[NOR] -= 1


def test_fusion_is_the_papers() -> None:
    products = torch.randn(2, 3, 5, 5)
    relative = torch.softmax(products[:, :2], dim=1)[:, 1]
    absolute = torch.sigmoid(products[:, 2])
    torch.testing.assert_close(fuse(products, 0.3), 0.3 * absolute + 0.7 * relative)


def test_fusion_with_some_anchors_is_what_the_present_ones_give() -> None:
    product = torch.randn(1, 1, 4, 4)
    torch.testing.assert_close(fuse(product, 0.5, (SEG,)), torch.sigmoid(product[:, 0]))
    torch.testing.assert_close(fuse(product, 0.5, (ANO,)), torch.sigmoid(product[:, 0]))
    torch.testing.assert_close(fuse(product, 0.5, (NOR,)), torch.sigmoid(-product[:, 0]))
    with pytest.raises(ValueError, match="no anchor"):
        fuse(torch.zeros(1, 0, 4, 4), 0.5, ())


def test_relative_logits_are_a_softmax() -> None:
    products = torch.randn(1, 3, 4, 4)
    probabilities = torch.sigmoid(map_logits(products))
    torch.testing.assert_close(probabilities[:, NOR] + probabilities[:, ANO], torch.ones(1, 4, 4))


@torch.no_grad()
def test_finer_features_change_the_map_where_they_lie() -> None:
    torch.manual_seed(0)
    transformer = TwoWayTransformer(depth=1, embedding_dim=32, num_heads=4, mlp_dim=64)
    fine = AGMD(transformer=transformer, transformer_dim=32, fine=True).eval()
    anchors, pixel = torch.randn(1, 3, 32), torch.randn(1, 128, 8, 8)
    changed = pixel.clone()
    changed[:, 64 + 32 :, 2, 5] += 3  # among those of 4 g, whose 4 x 4 cells of one place of f_p these are
    difference = (fine(anchors, changed) - fine(anchors, pixel)).abs().amax(dim=1)[0]
    rows, columns = (difference > 1e-6).nonzero().T
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (8, 11, 20, 23)
    coarse = AGMD(transformer=transformer, transformer_dim=32).eval()
    coarse.load_state_dict(fine.state_dict(), strict=False)
    assert coarse(anchors, pixel[:, :32]).shape == fine(anchors, pixel).shape == (1, 3, 32, 32)
