"""Under which licence a checkpoint's weights are exported."""

import json

import pytest

from agvas_export.card import licence_of
from agvas_runtime.bundle import Bundle, default_bundle_path
from agvas_train.checkpoint import default_checkpoint_path
from agvas_train.config import SYNTHETIC

FROM_NOTHING = {"data": SYNTHETIC, "train": {"base_sha256": None}}
ON_A_BASE = {"data": SYNTHETIC, "train": {"base_sha256": "0" * 64}}


@pytest.mark.parametrize(
    ("made", "licence"),
    [
        (FROM_NOTHING, "Apache-2.0"),
        ({**ON_A_BASE, "base": FROM_NOTHING}, "Apache-2.0"),
        ({**ON_A_BASE, "base": {"sha256": "0" * 64, "provenance": FROM_NOTHING}, "merged": True}, "Apache-2.0"),
        ({**ON_A_BASE, "base": {"backbones": {"llm": "0" * 64}}}, "not recorded"),
        ({**ON_A_BASE, "base": None}, "not recorded"),
        ({**FROM_NOTHING, "data": "real-iad"}, "not recorded"),
        ({**ON_A_BASE, "base": {**FROM_NOTHING, "data": "real-iad"}}, "not recorded"),
        ({"random_weights": True}, "not recorded"),
        ({}, "not recorded"),
        ({"licence": "CC-BY-NC-4.0", **FROM_NOTHING}, "CC-BY-NC-4.0"),
        ({**ON_A_BASE, "base": {"licence": "CC-BY-NC-4.0", **FROM_NOTHING}}, "not recorded"),
    ],
)
def test_the_licence_is_what_the_checkpoint_names_or_ours_where_all_of_it_is(made: dict, licence: str) -> None:
    assert licence_of(made) == licence


def test_the_embedded_checkpoints_licence_is_ours() -> None:
    assert Bundle.open(default_bundle_path()).manifest.licence == "Apache-2.0"
    assert licence_of(json.loads((default_checkpoint_path() / "provenance.json").read_text("utf-8"))) == "Apache-2.0"
