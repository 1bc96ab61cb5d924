"""LLaVA-OneVision from folders as users hold them: both layouts, whole and in shards, and what can be wrong there."""

import json
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

from agvas_runtime.errors import InputError
from agvas_train.model import PRESETS, ModelConfig, build_agvas
from agvas_train.model.build import SIGLIP_SO400M
from agvas_train.weights.hub import locate
from agvas_train.weights.llava import HEAD, llava_config, llava_tensors
from agvas_train.weights.reader import LazyTensors

ROWS = 512
TINY = PRESETS["tiny"](ROWS)
TEXT = {
    "model_type": "qwen2",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": ROWS,
    "max_position_embeddings": 4096,
    "rope_theta": 50_000.0,
    "rms_norm_eps": 1e-5,
}
VISION = {
    "model_type": "siglip_vision_model",
    "hidden_size": 96,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 96,
    "patch_size": 16,
    "vision_use_head": False,
}
HUB_RENAMES = (
    (r"^model\.language_model\.", "language_model.model."),
    (r"^lm_head\.", "language_model.lm_head."),
    (r"^model\.vision_tower\.(vision_model\.)?", "vision_tower.vision_model."),
    (r"^model\.", ""),
)
"""From the module's names to those of the hub's files."""


def hub_document(*, tied: bool, **changes: object) -> dict:
    """A config.json as sparse as the hub's."""
    text = {**TEXT, "tie_word_embeddings": True} if tied else TEXT
    document = {"model_type": "llava_onevision", "text_config": text, "vision_config": VISION, "image_token_index": 5}
    return {**document, "tie_word_embeddings": tied, "torch_dtype": "float16", **changes}


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def original(request: pytest.FixtureRequest) -> LlavaOnevisionForConditionalGeneration:
    torch.manual_seed(0)
    model = LlavaOnevisionForConditionalGeneration(LlavaOnevisionConfig(**hub_document(tied=request.param)))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)  # also what begins as ones and zeros, so that no mix-up goes unseen
    return model.eval()


def is_tied(model: LlavaOnevisionForConditionalGeneration) -> bool:
    return model.lm_head.weight is model.get_input_embeddings().weight


def hub_tensors(model: LlavaOnevisionForConditionalGeneration, *, head: bool = True) -> dict[str, Tensor]:
    tensors = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and not head:
            continue
        for pattern, replacement in HUB_RENAMES:
            name, changed = re.subn(pattern, replacement, name)
            if changed:
                break
        tensors[name] = tensor.clone()
    return tensors


def write(folder: Path, tensors: dict[str, Tensor], document: dict, *, shards: int = 1) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(document))
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return folder
    places = {}
    for number in range(shards):
        names = list(tensors)[number::shards]
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        save_file({name: tensors[name] for name in names}, folder / file)
        places.update(dict.fromkeys(names, file))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


@pytest.fixture
def hub_folder(original: LlavaOnevisionForConditionalGeneration, tmp_path: Path) -> Path:
    """The hub's original layout, in three shards."""
    tied = is_tied(original)
    return write(tmp_path / "hub", hub_tensors(original, head=not tied), hub_document(tied=tied), shards=3)


def read(folder: Path) -> tuple[ModelConfig, LazyTensors]:
    config = llava_config(folder, TINY)
    return config, llava_tensors(folder, config)


def expected_names(config: ModelConfig) -> set[str]:
    with torch.device("meta"):
        names = {name for name in build_agvas(config).state_dict() if name.startswith("llava.")}
    return names - ({HEAD} if config.language["tie_word_embeddings"] else set())


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(InputError) as refused:
        action()
    text = str(refused.value)
    assert "\n" not in text
    return text


def test_every_layout_gives_the_same_tensors(
    original: LlavaOnevisionForConditionalGeneration, hub_folder: Path, tmp_path: Path
) -> None:
    original.save_pretrained(tmp_path / "saved")
    document = hub_document(tied=is_tied(original))
    inner = {name: tensor.clone() for name, tensor in original.state_dict().items()}
    folders = [
        hub_folder,
        tmp_path / "saved",
        write(tmp_path / "module-names", inner, document),
        write(tmp_path / "whole-with-head", hub_tensors(original), document),
    ]
    truth = {f"llava.{name}": tensor for name, tensor in original.state_dict().items()}
    for folder in folders:
        config, tensors = read(folder)
        assert tensors.keys() == expected_names(config)
        for name, tensor in tensors.items():
            assert torch.equal(tensor.read(), truth[name]), (folder, name)
            assert tensor.origin is not None
            assert torch.equal(load_file(tensor.origin.file)[tensor.origin.name], truth[name])


def test_transformers_itself_reads_the_hubs_layout_of_these_tests(
    original: LlavaOnevisionForConditionalGeneration, hub_folder: Path
) -> None:
    loaded, info = LlavaOnevisionForConditionalGeneration.from_pretrained(
        hub_folder, local_files_only=True, output_loading_info=True, dtype=torch.float32
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert all(torch.equal(tensor, original.state_dict()[name]) for name, tensor in loaded.state_dict().items())


@torch.no_grad()
def test_our_model_computes_what_the_original_does(
    original: LlavaOnevisionForConditionalGeneration, hub_folder: Path
) -> None:
    config, tensors = read(hub_folder)
    model = build_agvas(config)
    held = {name.removeprefix("llava."): tensor.read() for name, tensor in tensors.items()}
    missing, unexpected = model.llava.load_state_dict(held, strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}
    pixels = torch.randn(2, 3, 96, 96)
    hidden = original.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(model.semantic_features(pixels), original.model.multi_modal_projector(hidden))
    ids = torch.arange(10, 50)[None]
    logits = model.logits(model.hidden_states(model.embed(ids)))
    torch.testing.assert_close(logits, original(input_ids=ids).logits)


def test_the_folder_decides_vocabulary_rotary_base_norms_and_tying(hub_folder: Path) -> None:
    config = llava_config(hub_folder, PRESETS["tiny"](99))
    assert config.language["vocab_size"] == ROWS
    assert config.language["rope_parameters"] == {"rope_type": "default", "rope_theta": 50_000.0}
    assert config.language["rms_norm_eps"] == 1e-5
    assert config.language["max_position_embeddings"] == 4096
    assert config.language["tie_word_embeddings"] is ("tie_word_embeddings" in _text_config(hub_folder))
    assert config.semantic["hidden_act"] == "gelu_pytorch_tanh"
    assert ModelConfig.model_validate_json(config.model_dump_json()) == config


def _text_config(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())["text_config"]


@pytest.mark.parametrize("preset", ["0.5b", "7b"])
def test_the_hubs_own_configurations_fit_the_presets(preset: str, tmp_path: Path) -> None:
    """With the fields that transformers 4 wrote for that model; what equalled a default is left out."""
    shape = PRESETS[preset]().language
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    text = {
        "model_type": "qwen2",
        **{name: shape[name] for name in (*sizes, "vocab_size", "max_position_embeddings")},
        "rope_theta": 1_000_000.0,
        "max_window_layers": shape["num_hidden_layers"],
        "sliding_window": 131_072,
        **({"tie_word_embeddings": True} if preset == "0.5b" else {}),
    }
    document = {
        "architectures": ["LlavaOnevisionForConditionalGeneration"],
        "model_type": "llava_onevision",
        "text_config": text,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "use_image_newline_parameter": True,
        "vision_config": {"model_type": "siglip_vision_model", **SIGLIP_SO400M, "vision_use_head": False},
    }
    (tmp_path / "config.json").write_text(json.dumps(document))
    ours, theirs = PRESETS[preset](), llava_config(tmp_path, PRESETS[preset](1))
    assert theirs.language == {**ours.language, "rms_norm_eps": 1e-6, "hidden_act": "silu"}
    assert theirs.semantic == {**ours.semantic, "layer_norm_eps": 1e-6, "hidden_act": "gelu_pytorch_tanh"}


def test_what_llava_onevision_never_reads_may_be_there_or_not(
    original: LlavaOnevisionForConditionalGeneration, tmp_path: Path
) -> None:
    tensors = hub_tensors(original)
    tower = "vision_tower.vision_model."
    norm = {name: tensors.pop(name) for name in list(tensors) if "post_layernorm" in name}
    assert len(norm) == 2
    layer = {name: tensor for name, tensor in tensors.items() if name.startswith(f"{tower}encoder.layers.2.")}
    tensors |= {name.replace("layers.2.", "layers.3."): tensor.clone() for name, tensor in layer.items()}
    tensors |= {
        f"{tower}head.probe": torch.zeros(1, 1, 96),
        f"{tower}head.mlp.fc1.weight": torch.zeros(192, 96),
        f"{tower}embeddings.position_ids": torch.arange(36)[None],
        "language_model.model.rotary_emb.inv_freq": torch.zeros(16),
    }
    one_more = {"vision_config": {**VISION, "num_hidden_layers": 4}, "vision_feature_layer": -2}
    folder = write(tmp_path / "hub", tensors, hub_document(tied=is_tied(original), **one_more))
    config, found = read(folder)
    assert found.keys() == expected_names(config)
    made = {name: tensor for name, tensor in found.items() if tensor.origin is None}
    assert {name.rpartition(".post_layernorm.")[2] for name in made} == {"weight", "bias"}
    for name, tensor in made.items():
        assert torch.equal(tensor.read(), torch.full((96,), float(name.endswith("weight"))))


def test_tensors_that_do_not_fit_are_named_with_both_sides(
    original: LlavaOnevisionForConditionalGeneration, tmp_path: Path
) -> None:
    tied = is_tied(original)
    document = hub_document(tied=tied)
    good = hub_tensors(original)
    gate = "language_model.model.layers.1.mlp.gate_proj.weight"

    def refused(name: str, tensors: dict[str, Tensor]) -> str:
        folder = write(tmp_path / name, tensors, document)
        return refusal(lambda: read(folder)).removeprefix(str(folder))

    assert refused("missing", {name: tensor for name, tensor in good.items() if name != gate}) == (
        ": tensor language_model.layers.1.mlp.gate_proj.weight is missing, preset tiny expects it with shape (256, 128)"
    )
    some = {name: tensor for name, tensor in good.items() if "model.layers.1.mlp" not in name}
    assert " is missing (and 2 more), preset tiny expects" in refused("several", some)
    assert refused("unexpected", {**good, "language_model.model.extra": torch.zeros(3)}) == (
        "/model.safetensors: unexpected tensor language_model.model.extra, which preset tiny does not have"
    )
    assert refused("size", {**good, gate: torch.zeros(256, 64)}) == (
        f"/model.safetensors: {gate} has shape (256, 64), preset tiny expects (256, 128)"
    )
    twice = {**good, "model.language_model.norm.weight": torch.zeros(128)}
    assert "norm.weight is there under another name too, expected it once" in refused("twice", twice)
    assert refused("rows", {**good, "language_model.model.embed_tokens.weight": torch.zeros(500, 128)}) == (
        "/model.safetensors: language_model.model.embed_tokens.weight has shape (500, 128), "
        "preset tiny expects (512, 128)"
    )
    if not tied:
        headless = refused("headless", hub_tensors(original, head=False))
        assert headless == ": tensor lm_head.weight is missing, preset tiny expects it with shape (512, 128)"
    else:
        assert refused("head", {**good, "language_model.lm_head.weight": torch.zeros(ROWS, 128)}) == (
            ": lm_head.weight differs from the token embeddings, config.json says that they are tied"
        )


def test_a_missing_shard_is_named(hub_folder: Path) -> None:
    shard = hub_folder / "model-00002-of-00003.safetensors"
    shard.unlink()
    assert refusal(lambda: read(hub_folder)) == (
        f"{shard}: shard 2 of 3 is missing; model.safetensors.index.json needs it"
    )


def test_folders_that_are_something_else_are_refused_by_name(tmp_path: Path) -> None:
    def refused(**changes: object) -> str:
        (tmp_path / "config.json").write_text(json.dumps(hub_document(tied=False, **changes)))
        return refusal(lambda: llava_config(tmp_path, TINY)).removeprefix(str(tmp_path))

    assert refused(model_type="llava_next") == "/config.json: model_type is llava_next, expected llava_onevision"
    assert refused(text_config={**TEXT, "model_type": "llama"}) == (
        ": text model_type is llama, preset tiny expects qwen2"
    )
    assert refused(vision_config={**VISION, "model_type": "clip_vision_model"}) == (
        ": vision model_type is clip_vision_model, preset tiny expects siglip_vision_model"
    )
    assert refused(vision_config={**VISION, "patch_size": 14}) == ": vision patch_size is 14, preset tiny expects 16"
    assert refused(vision_feature_layer=-2) == ": vision num_hidden_layers is 2, preset tiny expects 3"
    assert refused(vision_feature_layer=[-2, -1]) == ": vision_feature_layer is [-2, -1], expected a single layer"
    assert refused(text_config={**TEXT, "num_key_value_heads": 4}) == (
        ": text num_key_value_heads is 4, preset tiny expects 2"
    )
    sliding = {"use_sliding_window": True, "max_window_layers": 1}
    assert "sliding_attention, expected full_attention alone" in refused(text_config={**TEXT, **sliding})
    assert refused(text_config={**TEXT, "hidden_size": "wide"}).startswith("/config.json: Validation error for field")
    (tmp_path / "config.json").write_text("[]")
    assert "model_type is None" in refusal(lambda: llava_config(tmp_path, TINY))
    (tmp_path / "config.json").write_text("{")
    assert "not readable JSON" in refusal(lambda: llava_config(tmp_path, TINY))


def test_another_presets_folder_is_refused_with_both_sizes(hub_folder: Path) -> None:
    assert refusal(lambda: llava_config(hub_folder, PRESETS["7b"]())) == (
        f"{hub_folder}: text hidden_size is 128, preset 7b expects 3584"
    )


def test_empty_folders_and_typos_are_refused(tmp_path: Path) -> None:
    assert refusal(lambda: llava_config(tmp_path, TINY)) == (
        f"{tmp_path}: no config.json in it, expected a folder of LLaVA-OneVision"
    )
    assert "no weights in it" in refusal(lambda: llava_tensors(tmp_path, TINY))
    assert refusal(lambda: llava_config(tmp_path / "typo", TINY)) == f"{tmp_path / 'typo'}: no such folder"


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty cache of the hub, and a machine where every attempt at a connection is an error of its own."""

    def connect(*_: object) -> None:
        raise AssertionError("went to the network")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, connect)
    monkeypatch.setattr(socket, "getaddrinfo", connect)
    return tmp_path / "cache"


def test_a_path_that_exists_is_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert locate(str(tmp_path)) == tmp_path
    assert locate("org/name") == Path("org/name")


@pytest.mark.parametrize("source", ["typo", "./org/name", "/no/such", "a/b/c", "../name", "org/", ""])
def test_a_mistyped_path_is_no_hub_model(source: str, no_network: Path) -> None:
    assert refusal(lambda: locate(source, download=True)) == f"{source}: no such folder or file"


def test_a_hub_model_comes_from_the_cache_alone(no_network: Path) -> None:
    snapshot = no_network / "models--org--name" / "snapshots" / ("0" * 40)
    assert refusal(lambda: locate("org/name")) == (
        "org/name: no such folder or file, and no complete model of that name in the hub's cache "
        f"{no_network}; --download or `hf download org/name` fetches it"
    )
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (no_network / "models--org--name" / "refs").mkdir()
    (no_network / "models--org--name" / "refs" / "main").write_text("0" * 40)
    assert locate("org/name") == snapshot


def test_only_a_download_that_was_asked_for_tries_the_network(
    no_network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    message = refusal(lambda: locate("org/name", download=True))
    assert message.startswith("org/name: no such folder or file, and the hub does not give a model: ")
