"""SPAM that knows places, and what teaches its tokens and the words for them where a defect lies."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from agvas_runtime.errors import InputError
from agvas_train.checkpoint import Checkpoint, default_checkpoint_path, load_checkpoint, save_checkpoint
from agvas_train.config import TrainConfig
from agvas_train.data.batch import collate, make_example
from agvas_train.data.conversation import Task
from agvas_train.data.synth import SynthConfig
from agvas_train.data.synth.captions import PLACE_WORDS, where
from agvas_train.data.synth.notes import place_word
from agvas_train.data.synth_turns import SynthTurns
from agvas_train.dry_run import plan
from agvas_train.losses import place_loss
from agvas_train.model.places import place_codes
from agvas_train.model.spam import SPAM
from agvas_train.options import make_config, read_options, shipped_recipes
from agvas_train.runs import run_training
from agvas_train.step import TrainingStep
from agvas_train.weights.load import named_tensors
from tests.train.conftest import SHORT, quiet

CPU = torch.device("cpu")


@pytest.mark.parametrize(("coarse", "fine"), [(6, 36), (6, 24), (9, 18), (5, 5)])
def test_a_places_code_is_most_like_those_of_the_same_place_on_another_grid(coarse: int, fine: int) -> None:
    here, there = place_codes(coarse, coarse, CPU), place_codes(fine, fine, CPU)
    nearest = (there @ here.T).argmax(1).reshape(fine, fine)
    rows = ((torch.arange(fine) + 0.5) / fine * coarse).long()
    assert torch.equal(nearest, rows[:, None] * coarse + rows[None])


def test_every_place_has_a_code_of_its_own_whatever_the_size() -> None:
    codes, finer = place_codes(9, 9, CPU), place_codes(27, 27, CPU)
    assert codes.shape == (81, 16)
    assert torch.cdist(codes, codes).fill_diagonal_(1).min() > 0.3
    torch.testing.assert_close(codes.view(9, 9, 16), finer.view(27, 27, 16)[1::3, 1::3])


@torch.no_grad()
@pytest.mark.parametrize(("row", "column"), [(0, 0), (3, 14), (17, 9), (8, 8)])
def test_a_token_of_a_fresh_spam_sees_what_lies_at_its_place(row: int, column: int) -> None:
    spam = SPAM(embed_dim=128, num_heads=4, pixel_dim=64, places=True)
    for layer in (spam.q_proj, spam.k_proj):  # by place alone
        layer.weight.zero_()
        layer.bias.zero_()
    plain = torch.zeros(1, 64, 18, 18)
    marked = plain.clone()
    marked[:, :, row, column] = 1
    semantic = torch.zeros(1, 36, 128)
    change = (spam(semantic, marked) - spam(semantic, plain)).norm(dim=2)[0]
    assert change.argmax() == row // 3 * 6 + column // 3
    assert change.max() > 5 * change.median()


@torch.no_grad()
def test_without_places_every_order_of_the_pixels_is_the_same() -> None:
    semantic, pixel = torch.randn(1, 36, 128), torch.randn(1, 64, 6, 6)
    for places in (False, True):
        spam = SPAM(embed_dim=128, num_heads=4, pixel_dim=64, places=places)
        assert torch.allclose(spam(semantic, pixel), spam(semantic, pixel.flip(3)), atol=1e-5) is not places


def test_heads_too_narrow_for_places_are_refused() -> None:
    with pytest.raises(ValueError, match="heads of 8 are too narrow for places, expected 16 at least"):
        SPAM(embed_dim=32, num_heads=4, pixel_dim=8, places=True)


def test_place_loss_asks_each_token_for_the_most_defective_cell_at_its_place() -> None:
    logits, target = torch.randn(2, 4), torch.zeros(2, 8, 8)
    target[0, 5, 1], target[0, 5, 2] = 0.3, 0.8  # below on the left
    valid = torch.ones(2, 8, 8, dtype=torch.bool)
    valid[1, :, 4:] = False  # two tokens of the second have nothing that counts
    wanted = torch.tensor([[0, 0, 0.8, 0], [0, 0, 0, 0]])
    each = -(wanted * logits.sigmoid().log() + (1 - wanted) * (-logits).sigmoid().log())
    expected = (each[0].mean() + each[1, ::2].mean()) / 2
    torch.testing.assert_close(place_loss(logits, target, valid), expected)
    assert place_loss(logits, target, torch.zeros_like(valid)) == 0


def test_place_words_are_all_that_captions_say_of_places() -> None:
    said = {place_word(x, y, 3, 3) for x in range(3) for y in range(3)}
    assert {f" {where(place).split()[-1]}" for place in said} == set(PLACE_WORDS)


def batch_of(checkpoint: Checkpoint, task: Task, normal_share: float = 0):
    config = SynthConfig(normal_share=normal_share, usual_sides=(96, 112), max_side=128)
    turns, model = SynthTurns(checkpoint.templates, {task: 1.0}, config, 3), checkpoint.config.model
    return collate([make_example(*turns.turn(index), checkpoint.prompter, model) for index in range(2)], model)


@pytest.fixture(scope="module")
def embedded() -> Checkpoint:
    """Whose tokenizer knows the words for places."""
    return load_checkpoint(default_checkpoint_path())


@torch.no_grad()
def test_words_for_places_count_as_much_as_is_asked(embedded: Checkpoint) -> None:
    batch = batch_of(embedded, Task.DESCRIBE)
    first, second = (TrainingStep(embedded.model, embedded.prompter, place_weight=weight)(batch) for weight in (1, 3))
    usual = TrainingStep(embedded.model, embedded.prompter)(batch)
    assert "place" not in usual
    assert usual["text"] < first["text"] < second["text"]
    torch.testing.assert_close(second["text"] - usual["text"], 3 * (first["text"] - usual["text"]))
    rest = second["loss"] - second["text"]
    torch.testing.assert_close(rest, usual["loss"] - usual["text"] + 3 * second["place"])


@torch.no_grad()
def test_an_answer_that_names_no_place_weighs_the_same(embedded: Checkpoint) -> None:
    batch = batch_of(embedded, Task.DIRECT, normal_share=1)
    usual, more = (TrainingStep(embedded.model, embedded.prompter, place_weight=weight)(batch) for weight in (0, 3))
    torch.testing.assert_close(usual["text"], more["text"])
    assert more["place"] > 0


@torch.no_grad()
def test_the_losses_do_not_depend_on_how_a_batch_is_shared_out(small: Checkpoint) -> None:
    """Samples of different shapes, of which some ask no token."""
    config, model = SynthConfig(usual_sides=(96, 112), max_side=128), small.config.model
    turns = SynthTurns(small.templates, {Task.DESCRIBE: 1.0, Task.GENERAL: 1.0}, config, 3)
    examples = [make_example(*turns.turn(index), small.prompter, model) for index in range(8)]
    step = TrainingStep(small.model, small.prompter, place_weight=4)
    whole = collate(examples, model)
    assert whole.tells_defects.unique().numel() == 2
    assert whole.valid.sum(dim=(1, 2)).unique().numel() > 1
    parts = [step(collate(some, model)) for some in (examples[:2], examples[2:6], examples[6:])]
    for name, value in step(whole).items():
        shared = sum(share * part[name] for share, part in zip((0.25, 0.5, 0.25), parts, strict=True))
        torch.testing.assert_close(shared, value)


def test_words_that_the_tokenizer_cuts_to_pieces_are_left_out(small: Checkpoint, embedded: Checkpoint) -> None:
    known = TrainingStep(embedded.model, embedded.prompter).place_ids
    words = {embedded.prompter.decode([token]) for token in known}
    assert words == {" top", " bottom", " left", " right", " center", "-left", "-right"}
    assert not TrainingStep(small.model, small.prompter).place_ids


@pytest.mark.parametrize(
    ("task", "known"), [(Task.DIRECT, True), (Task.EXPLAIN, True), (Task.GENERAL, False), (Task.CONVERSATION, False)]
)
def test_tokens_are_asked_where_all_defects_are_known(small: Checkpoint, task: Task, known: bool) -> None:
    batch = batch_of(small, task, normal_share=float(task is Task.GENERAL))
    assert batch.tells_defects.tolist() == [known, known]
    with torch.no_grad():
        place = TrainingStep(small.model, small.prompter, place_weight=1)(batch)["place"]
    assert bool(place > 0) is known


def test_the_tokens_learn_from_it_and_not_the_map(small: Checkpoint) -> None:
    step = TrainingStep(small.model, small.prompter, place_weight=1)
    visual = small.model.encode(
        *(getattr(batch := batch_of(small, Task.DIRECT), name) for name in ("semantic", "pixel"))
    )
    step._place(visual.tokens, batch).backward()
    reached = {name for name, weight in small.model.named_parameters() if weight.grad is not None and weight.grad.any()}
    assert {"spam.v_place.weight", "spam.out_proj.weight", "llava.model.language_model.embed_tokens.weight"} <= reached
    assert not any(name.startswith(("agmd", "token_refiner", "llava.model.language_model.layers")) for name in reached)


def test_a_base_gets_a_fresh_spam_and_keeps_its_frozen_encoder(finished: Path, tmp_path: Path) -> None:
    base = load_checkpoint(finished / "final")
    base.config = base.config.model_copy(update={"model": base.config.model.model_copy(update={"spam_places": False})})
    base.model.spam = SPAM(embed_dim=128, num_heads=4, pixel_dim=64)
    save_checkpoint(base, tmp_path / "base")
    options = {"base": str(tmp_path / "base"), "fresh_spam": True, "frozen": ("pixel_encoder",), "place_weight": 2.0}
    run_training(tmp_path / "run", SHORT.model_copy(update=options), resume=False, report=quiet)
    made = load_checkpoint(tmp_path / "run" / "final")
    assert made.config.model.spam_places
    before, after = named_tensors(base.model), named_tensors(made.model)
    assert {name for name in after if name not in before} == {f"spam.{part}_place.weight" for part in "qkv"}
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert {name for name in before if name.startswith("pixel_encoder.")} <= same
    changed = set(before) - same
    for part in ("spam.", "agmd.", "token_refiner.", "llava.model.vision_tower.", "llava.model.language_model."):
        assert any(name.startswith(part) for name in changed), part


def test_a_dry_run_counts_what_is_frozen_and_spam_as_it_begins() -> None:
    base, recipe = default_checkpoint_path(), shipped_recipes()["tiny-words"]
    parts = plan(make_config({**read_options(recipe), "base": str(base)}))["parts"]
    assert parts["pixel_encoder"]["trained"] == parts["spam"]["frozen"] == 0
    assert parts["spam"]["trained"] == sum(weight.numel() for weight in load_checkpoint(base).model.spam.parameters())


@pytest.mark.parametrize("options", [{"fresh_spam": True}, {"frozen": ["pixel_encoder"]}])
def test_fresh_and_frozen_parts_are_a_bases_that_is_trained_in_full(options: dict[str, object], tmp_path: Path) -> None:
    name = next(iter(options))
    with pytest.raises(ValidationError, match=f"{name} is about a base that is trained in full; expected no lora"):
        TrainConfig.model_validate({"base": "x", "lora": 16, **options})
    config = TrainConfig.model_validate({"preset": "tiny", **options})
    with pytest.raises(InputError, match="fresh_spam and frozen are about a base checkpoint: name it with --from"):
        run_training(tmp_path / "run", config, resume=False, report=quiet)
    with pytest.raises(ValidationError, match="frozen"):
        TrainConfig(base="x", frozen=("agmd",))
