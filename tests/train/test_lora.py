"""LoRA: exactly the paper's parts are trained, tied embeddings stay tied, and merging changes no output."""

import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from agvas_runtime.errors import InputError
from agvas_train.assemble import random_base
from agvas_train.checkpoint import Checkpoint, load_checkpoint, write_checkpoint
from agvas_train.data.batch import Batch, collate
from agvas_train.data.conversation import Task
from agvas_train.data.stream import TurnStream
from agvas_train.data.synth import SynthConfig
from agvas_train.data.synth_turns import SynthTurns
from agvas_train.lora import (
    ADAPTER,
    ADAPTER_CONFIG,
    AdapterConfig,
    add_adapters,
    load_adapted,
    merge,
    read_adapter_config,
)
from agvas_train.model import AGVAS, PRESETS
from agvas_train.model.pixel_encoders import with_pixel_encoder
from agvas_train.reference import ReferenceSegmenter
from agvas_train.step import TrainingStep
from agvas_train.weights.load import build_empty, materialise, named_tensors

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
NEW = ("spam.", "token_refiner.", "agmd.")


@pytest.fixture(scope="module")
def merged(adapted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("merged") / "checkpoint"
    write_checkpoint(*merge(adapted / "final"), out)
    return out


def batch_of(checkpoint: Checkpoint, *tasks: Task) -> Batch:
    """A batch with one sample for each task, all of them defective."""
    turns = SynthTurns(checkpoint.templates, {Task.DIRECT: 1.0}, SynthConfig(normal_share=0.0), seed=1)
    stream = TurnStream(
        turns,
        config=checkpoint.config.model,
        prompter=checkpoint.prompter,
        batch_size=1,
        micro_batch=1,
        start=0,
        stop=1,
    )
    examples = []
    for index, task in enumerate(tasks):
        turns.mixture = {task: 1.0}
        examples.append(stream.example(index))
    return collate(examples, checkpoint.config.model)


def reached(checkpoint: Checkpoint, batch: Batch) -> set[str]:
    """The parameters that a batch moves: whose gradient is not zero. No other one even has a gradient."""
    model = checkpoint.model.train()
    model.zero_grad(set_to_none=True)
    TrainingStep(model, checkpoint.prompter)(batch)["loss"].backward()
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())
    return {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}


def shaken(model: AGVAS) -> None:
    """Give the adapters' second halves values: they begin at zero, and nothing would pass through to the first."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1, generator=generator)


def expected_names(checkpoint: Checkpoint, *, tied: bool) -> set[str]:
    """What method and paper list as trained, by name (section B.2)."""
    stem = "llava.model.language_model"
    layers = range(checkpoint.config.model.language["num_hidden_layers"])
    names = {
        f"{stem}.layers.{layer}.self_attn.{projection}.lora_{side}.default.weight"
        for layer in layers
        for projection in ATTENTION
        for side in "AB"
    }
    names |= {f"{stem}.embed_tokens.weight"} | (set() if tied else {"llava.lm_head.weight"})
    parts = {name for name, _ in build_empty(checkpoint.config.model).named_parameters() if name.startswith(NEW)}
    return names | parts


@pytest.mark.parametrize("tied", [True, False])
def test_gradients_reach_exactly_the_papers_parts(small: Checkpoint, tied: bool) -> None:
    if not tied:
        language = {**small.config.model.language, "tie_word_embeddings": False}
        model = small.config.model.model_copy(update={"language": language})
        info, tensors = random_base(model, 0, "float32")
        small = Checkpoint(**vars(info), model=materialise(model, tensors, name="random", dtype=torch.float32))
    add_adapters(small.model, AdapterConfig(rank=4, base="", base_sha256=""))
    shaken(small.model)
    names = expected_names(small, tied=tied)
    assert {name for name, p in small.model.named_parameters() if p.requires_grad} == names
    # a bias of the keys adds the same to every score of a row, which no softmax sees; of SPAM's and AGMD's attention
    blind = {name for name in names if name.endswith("k_proj.bias")}
    found = reached(small, batch_of(small, Task.DIRECT, Task.CONVERSATION, Task.GENERAL))
    assert found - blind == names - blind


def test_what_a_broken_connection_would_do_is_seen(small: Checkpoint) -> None:
    """The test above is no test of the graph alone: a part that is multiplied by zero counts as not reached."""
    add_adapters(small.model, AdapterConfig(rank=4, base="", base_sha256=""))
    small.model.spam.register_forward_hook(lambda module, inputs, output: output * 0)
    assert not any(name.startswith("spam.") for name in reached(small, batch_of(small, Task.DIRECT)))


def test_a_pixel_encoder_with_a_projection_trains_that_too(small: Checkpoint) -> None:
    config = with_pixel_encoder(PRESETS["0.5b"](), "dinov2-vit-l-14")
    model = build_empty(config)
    add_adapters(model, AdapterConfig(rank=4, base="", base_sha256=""))
    trained = {name for name, p in model.named_parameters() if p.requires_grad and name.startswith("pixel_")}
    assert trained == {"pixel_projection.weight", "pixel_projection.bias"}


def test_relative_anchors_learn_from_anomalies_only(small: Checkpoint) -> None:
    """General segmentation emits [SEG] alone: the parts of [NOR] and [ANO] get no signal from it."""
    add_adapters(small.model, AdapterConfig(rank=4, base="", base_sha256=""))
    heads = {f"agmd.output_hypernetworks_mlps.{anchor}.layers.0.weight" for anchor in range(3)}

    def moved(*tasks: Task) -> set[str]:
        reached(small, batch_of(small, *tasks))
        return {name for name, p in small.model.named_parameters() if name in heads and p.grad.abs().max() > 0}

    assert moved(Task.GENERAL) == {"agmd.output_hypernetworks_mlps.2.layers.0.weight"}
    assert moved(Task.DIRECT) == heads
    assert moved(Task.CONVERSATION) == set()


def test_tied_embeddings_stay_tied_through_lora_merge_and_reload(adapted: Path, merged: Path) -> None:
    unmerged, _ = load_adapted(adapted / "final")
    for model in (unmerged.model, load_checkpoint(merged).model):
        assert model.llava.lm_head.weight is model.llava.get_input_embeddings().weight
    assert "llava.lm_head.weight" not in load_file(merged / "model.safetensors")
    table = load_file(adapted / "final" / ADAPTER)["llava.model.language_model.embed_tokens.weight"]
    assert torch.equal(load_checkpoint(merged).model.llava.lm_head.weight, table)


@torch.no_grad()
def test_merging_changes_no_output(finished: Path, adapted: Path, merged: Path) -> None:
    unmerged, _ = load_adapted(adapted / "final")
    clean, base = load_checkpoint(merged), load_checkpoint(finished / "final")
    assert not any("lora" in name for name, _ in clean.model.named_parameters())
    ids = torch.randint(0, 700, (2, 12), generator=torch.Generator().manual_seed(0))
    logits = [c.model.eval().logits(c.model.hidden_states(c.model.embed(ids))) for c in (unmerged, clean, base)]
    torch.testing.assert_close(logits[1], logits[0], rtol=0, atol=1e-4)
    assert (logits[2] - logits[0]).abs().max() > 1e-3  # training did change them
    states = [c.model.hidden_states(c.model.embed(ids))[:, -3:] for c in (unmerged, clean)]
    pixel = torch.randn(2, clean.config.model.pixel_channels, 32, 32, generator=torch.Generator().manual_seed(1))
    maps = [
        torch.sigmoid(c.model.products(s, pixel, (0, 1, 2))) for c, s in zip((unmerged, clean), states, strict=True)
    ]
    torch.testing.assert_close(maps[1], maps[0], rtol=0, atol=1e-4)


def test_merging_tensor_by_tensor_is_what_peft_merges(adapted: Path, merged: Path) -> None:
    unmerged, lora = load_adapted(adapted / "final")
    unmerged.model.llava = lora.merge_and_unload()
    expected, found = named_tensors(unmerged.model), named_tensors(load_checkpoint(merged).model)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6, msg=name)


def test_a_merged_checkpoint_by_reference_is_the_same_model(adapted: Path, merged: Path, tmp_path: Path) -> None:
    out = tmp_path / "merged"
    write_checkpoint(*merge(adapted / "final"), out, by_reference=True)
    size = {path: sum(file.stat().st_size for file in path.glob("*.safetensors")) for path in (out, merged)}
    assert size[out] < 0.7 * size[merged]
    whole, light = load_checkpoint(merged), load_checkpoint(out)
    for name, tensor in named_tensors(whole.model).items():
        assert torch.equal(named_tensors(light.model)[name], tensor), name


def test_a_merged_checkpoint_is_clean_and_says_where_it_comes_from(merged: Path) -> None:
    again = load_checkpoint(merged)
    assert again.provenance["merged"] is True
    assert again.provenance["lora_rank"] == 16
    assert again.provenance["base"]["provenance"]["step"] == 4
    ReferenceSegmenter(again).segment(np.zeros((8, 8, 3), np.uint8))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapters_are_merged_into_the_weights_they_were_trained_on(
    adapted: Path, tmp_path: Path, dtype: Literal["float32", "bfloat16"]
) -> None:
    folder = tmp_path / "final"
    shutil.copytree(adapted / "final", folder)
    config = read_adapter_config(folder).model_copy(update={"base_dtype": dtype})
    (folder / ADAPTER_CONFIG).write_text(config.model_dump_json())
    base = load_checkpoint(Path(config.base), dtype=torch.float32)
    _, tensors = merge(folder)
    trained, name = load_file(folder / ADAPTER), "llava.model.language_model.layers.0.self_attn.q_proj"
    delta = trained[f"{name}.lora_B.default.weight"] @ trained[f"{name}.lora_A.default.weight"]
    weight = named_tensors(base.model)[f"{name}.weight"].to(getattr(torch, dtype)).float()
    expected = weight + config.alpha / config.rank * delta
    torch.testing.assert_close(tensors[f"{name}.weight"].read(), expected, rtol=0, atol=1e-7)


def test_adapters_refuse_another_base(adapted: Path, small_folder: Path) -> None:
    with pytest.raises(InputError, match="but the adapters were trained on"):
        merge(adapted / "final", small_folder)
    with pytest.raises(InputError, match="name its folder with --base"):
        merge(adapted / "final", small_folder / "nowhere")


def test_adapters_that_fit_nothing_are_refused(adapted: Path, tmp_path: Path) -> None:
    broken = tmp_path / "final"
    shutil.copytree(adapted / "final", broken)
    tensors = load_file(broken / ADAPTER)
    tensors["spam.extra"] = torch.zeros(2)
    save_file(tensors, broken / ADAPTER)
    with pytest.raises(InputError, match=r"tensor spam\.extra belongs to nothing in"):
        merge(broken)
