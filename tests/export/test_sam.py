"""SAM's encoder folded for export: the library's own numbers, whatever the window, the grid and the heads."""

import pytest
import torch
from transformers import SamVisionConfig, SamVisionModel

from agvas_export.sam import FoldedSamEncoder


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize(("window", "image"), [(7, 256), (8, 256), (14, 224), (5, 96)])
def test_it_computes_what_the_library_computes(window: int, image: int, relative: bool) -> None:
    torch.manual_seed(0)
    config = SamVisionConfig(
        hidden_size=48,
        num_hidden_layers=3,
        num_attention_heads=3,
        image_size=image,
        patch_size=16,
        window_size=window,
        global_attn_indexes=[1],
        output_channels=16,
        use_rel_pos=relative,
        initializer_range=0.02,
    )
    model = SamVisionModel(config).eval()
    for name, parameter in model.named_parameters():  # the library begins with zeros here
        if "rel_pos" in name or "pos_embed" in name or name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    pixels = torch.randn(2, 3, image, image)
    with torch.inference_mode():
        expected, found = model(pixels).last_hidden_state, FoldedSamEncoder(model)(pixels)
    assert expected.abs().max() > 0.1
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5


def test_no_product_sees_a_padded_row() -> None:
    """Of 64 x 64 places in windows of 14 a plain encoder projects 70 x 70."""
    config = SamVisionConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, window_size=14, global_attn_indexes=[]
    )
    encoder = FoldedSamEncoder(SamVisionModel(config).eval())
    seen: list[torch.Size] = []
    encoder.layers[0].layer.attn.qkv.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape))
    with torch.inference_mode():
        encoder(torch.zeros(1, 3, 1024, 1024))
    assert seen == [torch.Size([1, 64, 64, 32])]
