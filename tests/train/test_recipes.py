"""Every recipe file in the repository is read, checked and dry-run; the paper's are the paper's."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agvas_runtime.errors import InputError
from agvas_train.checkpoint import default_checkpoint_path
from agvas_train.cli import app
from agvas_train.data.conversation import GROUPS
from agvas_train.dry_run import plan
from agvas_train.options import make_config, read_options, recipe_path, shipped_recipes
from agvas_train.parallel import read_deepspeed

REPOSITORY = Path(__file__).resolve().parents[2]
RECIPES = sorted(REPOSITORY.glob("agvas_*/**/recipes/*.yaml"))
ENGINES = sorted(REPOSITORY.glob("agvas_*/**/recipes/deepspeed/*.json"))
PAPER = {
    "general segmentation": 0.40,
    "Anomaly-Instruct": 0.25,
    "Anomaly-Seg": 0.25,
    "visual question answering": 0.10,
}


def test_the_shipped_recipes_are_the_files() -> None:
    expected = {"tiny", "tiny-gpu", "tiny-more", "tiny-words", "tiny-further", "tiny-mixture", "0.5b", "7b"}
    assert {path.stem for path in RECIPES} == set(shipped_recipes()) == expected
    assert [path.stem for path in ENGINES] == ["zero2", "zero3"]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_dry_run(recipe: Path) -> None:
    options = ["--config", str(recipe), "--dry-run"]
    if recipe.stem == "tiny-words":  # on a base that the command names
        options += ["--from", str(default_checkpoint_path())]
    result = CliRunner().invoke(app, [*options, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["preset"] == recipe.stem.partition("-")[0]
    assert bool(found["data"]) == (recipe.stem not in ("tiny", "tiny-gpu", "tiny-more", "tiny-words", "tiny-further"))
    assert found["processes"] * found["accumulated"] * found["micro_batch"] == found["batch_size"]
    assert found["trained"] > 0
    table = CliRunner().invoke(app, options)
    assert table.exit_code == 0, table.output
    assert "what is trained" in table.output


@pytest.mark.parametrize("engine", ENGINES, ids=lambda path: path.stem)
def test_every_deepspeed_file_is_read_in_a_dry_run(engine: Path) -> None:
    assert read_deepspeed(engine)["zero_optimization"]["stage"] == int(engine.stem[-1])
    result = CliRunner().invoke(app, ["--config", "7b", "--deepspeed", str(engine), "--dry-run"])
    assert result.exit_code == 0, result.output
    assert f"ZeRO-{engine.stem[-1]}" in result.output


@pytest.mark.parametrize("name", ["0.5b", "7b"])
def test_the_large_recipes_are_the_papers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Section B.2 and Table A.1; four processes as the paper had GPUs."""
    config = make_config(read_options(recipe_path(name)))
    assert (config.lora, config.learning_rate, config.warmup_steps, config.batch_size) == (16, 3e-4, 100, 80)
    assert config.precision == "bf16"
    assert config.gradient_checkpointing
    monkeypatch.setenv("WORLD_SIZE", "4")
    found = plan(config)
    assert found["shares"] == pytest.approx(PAPER, abs=0.01)
    frozen = {part for part, count in found["parts"].items() if not count["trained"]}
    assert frozen - {"output_head"} == {"semantic_encoder", "projector", "pixel_encoder"}
    assert found["parts"]["language_model"]["trained"] < 0.01 * found["parts"]["language_model"]["frozen"]


@pytest.mark.parametrize("name", ["0.5b", "7b", "tiny-mixture"])
def test_the_weights_of_a_group_s_tasks_add_up_to_table_a1(name: str) -> None:
    config = make_config(read_options(recipe_path(name)))
    sums = dict.fromkeys(PAPER, 0.0)
    for task, weight in config.mixture.items():
        sums[GROUPS[task].value] += weight
    assert sums == pytest.approx(PAPER)
    assert config.data is not None
    assert config.data.sets is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("- a\n- b\n", "found a list, expected an object of training options"),
        ("steps: [\n", "cannot be read"),
        ("preset: tiny\nstep: 3\n", "recipe.yaml: step: Extra inputs are not permitted; did you mean 'steps'?"),
        ("preset: tiny\nzz: 3\n", "zz: Extra inputs are not permitted; expected one of preset, base, "),
        ("data: {root: x, set: [a]}\n", "data.set: Extra inputs are not permitted; did you mean 'sets'?"),
        ("steps: 3\nseed: 0\nsteps: 4\n", "recipe.yaml: cannot be read: line 3, column 1: 'steps' stands twice"),
        ("preset: tiny\nbatch_size: 6\nmicro_batch: 4\n", "not a multiple of micro_batch 4"),
        ("preset: tiny\nbatch_size: 6\norientations: 4\n", "of 6 samples is not a multiple of 4 orientations"),
        ("preset: huge\n", "preset huge: expected one of tiny, 0.5b, 7b"),
        ("preset: tiny\nlora: 4\n", "--lora needs a base checkpoint"),
        ("preset: tiny\nclip_norm: 1e999\n", "clip_norm: Input should be a finite number, found inf"),
        ("preset: tiny\nclip_norm: .inf\n", "clip_norm: Input should be a valid number, unable to parse string as a "),
        ("mixture: {direct: -1}\n", "nor all zero, found {'direct': -1}"),
        ("preset: tiny\ndeepspeed: none.json\n", "none.json: cannot be read as a DeepSpeed configuration"),
    ],
)
def test_wrong_recipes_are_one_line(text: str, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    result = CliRunner().invoke(app, ["--config", str(file), "--dry-run"])
    assert isinstance(result.exception, InputError), result.output
    assert reason in str(result.exception)
    assert "\n" not in str(result.exception)


@pytest.mark.parametrize(
    ("text", "option", "reason"),
    [
        ("steps: 0\n", "--seed", "{file}: steps: Input should be greater than 0, found 0"),
        ("seed: 0\n", "--steps", "training options: steps: Input should be greater than 0, found -1"),
        ("batch_size: 6\nmicro_batch: 4\nusual_words: 2\n", "--workers", "{file}: usual_words: "),
        ("optimizer: muon\nlora: 1\n", "--keep", "{file} and the command line: optimizer muon does not run on LoRA"),
    ],
)
def test_an_error_names_the_recipe_beside_options_too(text: str, option: str, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    value = "-1" if option == "--steps" else "1"
    result = CliRunner().invoke(app, ["--config", str(file), option, value, "--dry-run"])
    assert isinstance(result.exception, InputError), result.output
    assert str(result.exception).startswith(reason.format(file=file))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--config", "tiny-words"], "fresh_spam and frozen are about a base checkpoint: name it with --from"),
        (["--from", "nowhere", "--lora", "16"], "/nowhere: no such checkpoint folder"),
        (["--preset", "tiny", "--lora", "16"], "--lora needs a base checkpoint: name it with --from"),
        (["--preset", "7b"], "--preset 7b starts from released backbones; make a base of it"),
        ([], "--preset or --from is missing: name what to train"),
    ],
)
def test_a_dry_run_refuses_what_its_run_refuses(
    options: list[str], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for rest in (["--dry-run"], ["--out", "run"]):
        result = CliRunner().invoke(app, [*options, *rest])
        assert isinstance(result.exception, InputError), result.output
        assert reason in str(result.exception)


def test_a_dry_run_allows_a_base_that_is_still_to_be_made(tmp_path: Path) -> None:
    base = tmp_path / "later"
    result = CliRunner().invoke(app, ["--preset", "tiny", "--from", str(base), "--lora", "4", "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "not there yet" in result.output


def test_a_recipe_may_say_that_there_is_no_deepspeed(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("preset: tiny\ndeepspeed: none\n")
    assert make_config(read_options(file)).deepspeed is None


def test_resuming_names_its_run_even_where_nothing_is_trained() -> None:
    result = CliRunner().invoke(app, ["--preset", "tiny", "--dry-run", "--resume"])
    assert "--out is missing: name the folder of the run" in str(result.exception)


def test_a_base_of_another_preset_is_refused(small_folder: Path) -> None:
    result = CliRunner().invoke(app, ["--config", "7b", "--from", str(small_folder), "--dry-run"])
    assert "is a checkpoint of preset tiny, the options name preset 7b" in str(result.exception)
