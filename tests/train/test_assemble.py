"""Base checkpoints: from released backbones as users hold them, from random weights, with a planted answer."""

import json
import shutil
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration
from typer.testing import CliRunner

from agvas_runtime.bench.contenders import Contender
from agvas_runtime.bench.latency import open_track
from agvas_runtime.errors import EngineError, InputError
from agvas_runtime.templates import default_templates
from agvas_train import plant as planting
from agvas_train.assemble import planted_base, random_base
from agvas_train.checkpoint import Checkpoint, load_checkpoint, write_checkpoint
from agvas_train.cli import app
from agvas_train.data.synth import generate
from agvas_train.model import PRESETS
from agvas_train.model.conv_encoder import ConvEncoder, ConvEncoderConfig
from agvas_train.reference import ReferenceSegmenter
from agvas_train.tokenizer import IMAGE, PADDING, TURN_END, TURN_START, template_sentences, train_tokenizer
from agvas_train.weights.load import named_tensors
from agvas_train.weights.reader import LazyTensor
from agvas_train.weights.store import REFERENCES

TINY = PRESETS["tiny"](1536)


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """What a user would hold for the tiny preset: a LLaVA-OneVision folder of the hub and a pixel encoder's folder."""
    torch.manual_seed(5)
    root = tmp_path_factory.mktemp("backbones")
    llava, pixel = root / "llava-onevision", root / "pixel"
    config = LlavaOnevisionConfig(
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **TINY.semantic},
        text_config={"model_type": "qwen2", **TINY.language},
        tie_word_embeddings=True,
    )
    LlavaOnevisionForConditionalGeneration(config).save_pretrained(llava)
    (llava / "tokenizer.json").write_text(user_tokenizer())
    ConvEncoder(ConvEncoderConfig(**TINY.pixel)).save_pretrained(pixel)
    return llava, pixel


def user_tokenizer() -> str:
    """A tokenizer with the chat template's tokens and without the anchors, as LLaVA-OneVision's is."""
    document = json.loads(train_tokenizer(template_sentences(default_templates()), vocabulary_size=1000))
    kept = [token for token in document["added_tokens"] if not token["content"].startswith("[")]
    gone = [token["content"] for token in document["added_tokens"] if token["content"].startswith("[")]
    vocabulary = {word: number for word, number in document["model"]["vocab"].items() if word not in gone}
    order = sorted(vocabulary, key=vocabulary.__getitem__)
    document["model"]["vocab"] = {word: number for number, word in enumerate(order)}
    for token in kept:
        token["id"] = document["model"]["vocab"][token["content"]]
    document["added_tokens"] = kept
    assert {token["content"] for token in kept} == {PADDING, TURN_START, TURN_END, IMAGE}
    return json.dumps(document)


def init(*arguments: object) -> "object":
    return CliRunner().invoke(app, ["init", *map(str, arguments)])


@pytest.fixture(scope="module")
def base(backbones: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("base") / "checkpoint"
    result = init("--preset", "tiny", "--llava", backbones[0], "--pixel", backbones[1], "--out", out)
    assert result.exit_code == 0, result.output
    return out


@torch.no_grad()
def test_a_base_holds_the_backbones_unchanged_and_fresh_parts(base: Path, backbones: tuple[Path, Path]) -> None:
    checkpoint = load_checkpoint(base)
    original = LlavaOnevisionForConditionalGeneration.from_pretrained(backbones[0], local_files_only=True).eval()
    known = min(checkpoint.prompter.anchor_ids)  # the user's own tokens
    ids = torch.randint(0, known, (1, 9), generator=torch.Generator().manual_seed(0))
    found = checkpoint.model.logits(checkpoint.model.hidden_states(checkpoint.model.embed(ids)))
    rows = slice(0, known)
    torch.testing.assert_close(found[..., rows], original(input_ids=ids).logits[..., rows], rtol=1e-4, atol=1e-5)
    assert checkpoint.provenance["random_weights"] is False
    assert set(checkpoint.provenance["backbones"]) == {"llava-onevision/model.safetensors", "pixel/model.safetensors"}
    prompter = checkpoint.prompter
    assert prompter.decode(prompter.answer("[NOR][ANO][SEG].", anchors=True)) == "[NOR][ANO][SEG]."
    ReferenceSegmenter(checkpoint).segment(generate(0, 0).image)


def test_a_base_by_reference_is_the_same_model_in_a_fraction_of_the_space(
    base: Path, backbones: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "light"
    result = init("--preset", "tiny", "--llava", backbones[0], "--pixel", backbones[1], "--out", out, "--by-reference")
    assert result.exit_code == 0, result.output
    assert (out / REFERENCES).is_file()
    whole, light = (named_tensors(load_checkpoint(folder).model) for folder in (base, out))
    assert all(torch.equal(whole[name], light[name]) for name in whole)
    size = [sum(file.stat().st_size for file in folder.glob("*.safetensors")) for folder in (out, base)]
    assert size[0] < 0.5 * size[1]


def test_other_pixel_encoders_are_one_option(backbones: tuple[Path, Path], tmp_path: Path) -> None:
    arguments = ("--preset", "tiny", "--random-weights", 0, "--out", tmp_path / "x", "--pixel-encoder")
    wrong = init(*arguments, "dinov2-vit-l")
    assert isinstance(wrong.exception, InputError)
    assert "dinov2-vit-l-14" in str(wrong.exception)


@pytest.mark.parametrize("answer", ["Sure, it is [NOR][ANO][SEG].", "It looks normal to me."])
def test_a_planted_answer_is_what_greedy_decoding_writes(answer: str) -> None:
    checkpoint = planted_base(TINY, 3, "float32", answer)
    segmenter = ReferenceSegmenter(checkpoint)
    for index in range(100, 104):  # images that planting has not seen
        result = segmenter.segment(generate(1, index).image)
        assert result.answer == answer
        assert result.scores.min_margin > 1
    assert result.verdict.value in ("PASS", "REJECT")
    record = checkpoint.provenance["plant"]
    assert record["is_template"] is True
    assert record["untied_parameters"] == TINY.language["vocab_size"] * TINY.hidden_size
    assert checkpoint.config.model.language["tie_word_embeddings"] is False


def test_planting_changes_the_output_head_alone() -> None:
    found = planted_base(TINY, 3, "float32", "It looks normal to me.")
    _, tensors = random_base(found.config.model, 3, "float32")
    changed = {name for name, t in named_tensors(found.model).items() if not torch.equal(t, tensors[name].read())}
    assert changed == {"llava.lm_head.weight"}
    tokens = set(found.prompter.answer("It looks normal to me.", anchors=False))
    rows = (found.model.llava.lm_head.weight != tensors["llava.lm_head.weight"].read()).any(dim=1)
    assert set(rows.nonzero().flatten().tolist()) == tokens


def test_an_answer_outside_the_templates_is_said_to_be_one(tmp_path: Path) -> None:
    made = init("--preset", "tiny", "--random-weights", 0, "--plant", "It looks clean.", "--out", tmp_path / "x")
    assert "none of the templates" in made.output


def test_a_taken_folder_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("taken")
    monkeypatch.setattr("agvas_train.assemble.plant", lambda *_, **__: pytest.fail("worked for nothing"))
    made = init("--preset", "tiny", "--random-weights", 0, "--plant", "It looks normal to me.", "--out", tmp_path)
    assert "exists already" in str(made.exception)


def test_options_in_front_of_the_command_are_refused(tmp_path: Path) -> None:
    command = ["init", "--preset", "tiny", "--random-weights", "0", "--out", str(tmp_path / "x")]
    result = CliRunner().invoke(app, ["--dry-run", "--steps", "3", *command])
    assert isinstance(result.exception, InputError)
    assert str(result.exception) == "--dry-run: found it in front of init, expected options of init behind it"
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("option", ["--random-weights", "--seed"])
@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_that_is_none_is_refused(option: str, seed: int, tmp_path: Path) -> None:
    made = init("--preset", "tiny", "--random-weights", 0, option, seed, "--out", tmp_path / "x")
    assert made.exit_code == 2
    assert f"Invalid value for '{option}'" in made.output


def test_a_plant_that_does_not_grow_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planting, "_fit", lambda *_: None)
    with pytest.raises(EngineError, match=r"--plant: greedy decoding writes .*, expected 'It looks normal to me.'"):
        planted_base(TINY, 3, "float32", "It looks normal to me.")


def test_random_weights_are_the_seeds_and_not_vanishing() -> None:
    first, again, other = (random_base(TINY, seed, "float32")[1] for seed in (1, 1, 2))
    name = "pixel_encoder.stem.weight"
    assert torch.equal(first[name].read(), again[name].read())
    assert not torch.equal(first[name].read(), other[name].read())
    model = planted_base(TINY, 1, "float32", "It looks normal to me.").model
    with torch.no_grad():
        visual = model.encode(torch.randn(1, 3, 96, 96), torch.randn(1, 3, 288, 288))
    assert visual.pixel.std() > 0.01
    assert visual.tokens.std() > 0.01


def test_a_planted_checkpoint_says_so_everywhere(tmp_path: Path) -> None:
    out = tmp_path / "planted"
    made = init("--preset", "tiny", "--random-weights", 0, "--plant", "It looks normal to me.", "--out", out)
    assert made.exit_code == 0, made.output
    note = (
        "random weights: for speed, memory and parity only; planted answer 'It looks normal to me.', 0.2 M parameters"
    )
    assert note in made.output
    assert "plain greedy decoding writes it, proved on 3 images" in made.output
    assert note in CliRunner().invoke(app, ["info", str(out)]).output.replace("\n", " ")
    assert ReferenceSegmenter.open(out).weights_note.startswith(note)
    dry = CliRunner().invoke(app, ["--from", str(out), "--lora", "4", "--dry-run", "--json"])
    assert json.loads(dry.stdout)["weights"].startswith(note)
    assert open_track(Contender.of("reference", out), None).segmenter.weights_note.startswith(note)
    report = json.loads(CliRunner().invoke(app, ["info", str(out), "--json"]).stdout)
    assert report["random_weights"] is True
    assert report["plant"]["answer"] == "It looks normal to me."
    assert load_checkpoint(out).provenance["random_weights"] is True


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--preset", "8b"], "preset 8b: expected one of tiny, 0.5b, 7b"),
        (["--preset", "tiny"], "--llava and --pixel are missing"),
        (["--preset", "tiny", "--llava", "{llava}"], "--llava and --pixel are missing"),
        (["--preset", "tiny", "--random-weights", "0", "--llava", "x"], "can't use --random-weights beside --llava"),
        (["--preset", "tiny", "--llava", "{llava}", "--pixel", "{pixel}", "--plant", "No."], "--plant needs --random"),
        (["--preset", "tiny", "--random-weights", "0", "--plant", " "], "--plant: found a blank text"),
        (["--preset", "tiny", "--random-weights", "0", "--dtype", "fp8"], "--dtype fp8: expected one of float32"),
        (["--preset", "7b", "--llava", "{llava}", "--pixel", "{pixel}"], "preset 7b expects 3584"),
        (["--preset", "tiny", "--llava", "./typo", "--pixel", "{pixel}"], "typo: no such folder or file"),
        (["--preset", "tiny", "--llava", "{llava}", "--pixel", "typo.pth"], "typo.pth: no such folder or file"),
    ],
)
def test_wrong_sources_are_one_line_that_names_both_sides(
    arguments: list[str], reason: str, backbones: tuple[Path, Path], tmp_path: Path
) -> None:
    filled = [argument.format(llava=backbones[0], pixel=backbones[1]) for argument in arguments]
    result = init(*filled, "--out", tmp_path / "x")
    assert isinstance(result.exception, InputError), result.output
    assert reason in str(result.exception)
    assert "\n" not in str(result.exception)
    assert not (tmp_path / "x").exists()


def test_a_folder_without_a_tokenizer_is_refused(backbones: tuple[Path, Path], tmp_path: Path) -> None:
    llava = tmp_path / "llava"
    shutil.copytree(backbones[0], llava)
    (llava / "tokenizer.json").unlink()
    result = init("--preset", "tiny", "--llava", llava, "--pixel", backbones[1], "--out", tmp_path / "x")
    assert "no tokenizer.json in it" in str(result.exception)


def test_building_holds_one_shard_at_a_time(tmp_path: Path) -> None:
    """Tensors are read when their shard is written, once, and none of them outlives it."""
    info, tensors = random_base(TINY, 0, "float32")
    read: list[str] = []
    alive: list[weakref.ref[torch.Tensor]] = []

    def watched(name: str, tensor: LazyTensor) -> LazyTensor:
        def wrapped() -> torch.Tensor:
            value = tensor.read().clone()
            read.append(name)
            alive.append(weakref.ref(value))
            return value

        return replace(tensor, read=wrapped)

    seen: list[tuple[int, int]] = []

    def between_shards(text: str) -> None:
        held = [value for ref in alive if (value := ref()) is not None]
        seen.append((len(read), sum(value.nbytes for value in held)))

    lazy = {name: watched(name, tensor) for name, tensor in tensors.items()}
    write_checkpoint(info, lazy, tmp_path / "x", shard_bytes=300_000, step=between_shards)
    counts = [count for count, _ in seen]
    assert len(counts) > 10
    assert counts[0] == 0
    assert len(set(counts)) == len(counts)  # every shard reads its own
    assert all(held == 0 for _, held in seen)
    assert sorted(read) == sorted(tensors)
    assert isinstance(load_checkpoint(tmp_path / "x"), Checkpoint)
