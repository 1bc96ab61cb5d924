"""Recipes: what a file may say and what it is told when it says it wrongly, the watched folder, and precedence."""

import logging
import os
import threading
import time
from pathlib import Path

import pytest

from agvas_runtime.errors import InputError, NotNow
from agvas_runtime.proto.agvas.v1 import inspection_pb2 as pb
from agvas_runtime.server import recipes
from agvas_runtime.server.recipe_file import RecipeFile, parse
from agvas_runtime.server.recipes import RecipeBook, merge

EXAMPLES = Path(__file__).resolve().parents[2] / "deploy" / "recipes"
ALL_FIELDS = b"""
mode: describe-plus
class_name: scratches
normal_look: A smooth grey casting.
threshold: 0.4
alpha: 0
min_area_px: 25
min_score: 3e-1
roi: [10, 20, 300, 200]
on_no_answer: stop
mask_format: coco_rle
probability_format: float16
no_text: true
max_new_tokens: 64
strict_below: 0.5
deadline_ms: 40
"""


def said(text: str) -> pb.SegmentRequest:
    return parse("x", text.encode()).message


def named(text: str):
    return parse("x", text.encode())


def test_every_field_arrives_in_the_request():
    assert parse("bolt", ALL_FIELDS).message == pb.SegmentRequest(
        recipe_name="bolt",
        mode=pb.MODE_DESCRIBE_PLUS,
        class_name="scratches",
        normal_look="A smooth grey casting.",
        mask_format=pb.MASK_FORMAT_COCO_RLE,
        probability_format=pb.PROBABILITY_FORMAT_FLOAT16,
        deadline_ms=40,
        recipe=pb.Recipe(
            threshold=0.4,
            alpha=0,
            min_area_px=25,
            min_score=0.3,
            roi=pb.Box(x0=10, y0=20, x1=300, y1=200),
            on_no_answer=pb.NO_ANSWER_ACTION_STOP,
        ),
        decoding=pb.Decoding(no_text=True, max_new_tokens=64, strict_below=0.5),
    )
    assert {line.split(":")[0] for line in ALL_FIELDS.decode().split("\n") if line} | {"instruction"} == set(
        RecipeFile.model_fields
    )


def test_the_protocol_has_every_choice_that_a_recipe_has():
    for mask in ("none", "png", "packed_bits", "coco_rle", "polygons"):
        assert pb.MaskFormat.Name(said(f"mask_format: {mask}").mask_format) == f"MASK_FORMAT_{mask.upper()}"
    for name, mode in pb.Mode.items():
        if mode:
            text = name.removeprefix("MODE_").lower().replace("_", "-")
            more = "normal_look: Smooth." if mode == pb.MODE_DESCRIBE_PLUS else "instruction: What is it?"
            assert said(f"mode: {text}\n{more}").mode == mode


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("threshold: 1.5", "threshold: found 1.5, input should be less than or equal to 1"),
        ("threshold: .nan", "threshold: found '.nan', input should be a valid number"),
        ("threshold: '0.5'", "threshold: found '0.5', input should be a valid number"),
        ("min_area_px: true", "min_area_px: found True, input should be a valid integer"),
        ("min_area_px: 0", "min_area_px: found 0, input should be greater than or equal to 1"),
        ("min_area_px: 4294967296", "min_area_px: found 4294967296, input should be less than 4294967296"),
        ("min_area_px: 010", "min_area_px: found '010', input should be a valid integer"),
        ("deadline_ms: 1:30", "deadline_ms: found '1:30', input should be a valid number"),
        ("deadline_ms: 0", "deadline_ms: found 0, input should be greater than 0"),
        ("roi: [1, 2, 1, 4]", "roi: found (1, 2, 1, 4), expected x0 < x1 and y0 < y1, none of them negative"),
        ("roi: [1, 2, 3]", "roi: found [1, 2, 3], list should have at least 4 items after validation, not 3"),
        ("roi: [1, 2, x, 4]", "roi.2: found 'x', input should be a valid integer"),
        ("on_no_answer: off", "on_no_answer: found 'off', input should be 'reject', 'pass' or 'stop'"),
        ("max_new_tokens: 4000", "max_new_tokens: found 4000, input should be less than or equal to 2048"),
        ("mode: talk", "mode: found 'talk', input should be 'direct', 'describe', 'describe-plus', 'explain',"),
        ("class_name: 12", "class_name: found 12, input should be a valid string"),
        ("class_name:", "class_name: found nothing, expected a value, or no such line"),
        ("class_name: ' '", "class_name: found a blank text, expected words"),
        ("instruction: a\nclass_name: b", "can't use both instruction and class_name"),
        ("normal_look: Smooth.", "mode direct takes no normal_look; describe-plus does"),
        ("mode: conversation", "mode conversation needs instruction, your question"),
        ("thresold: 0.5", "found the unknown field 'thresold', expected threshold?"),
        ("1: 0.5", "found the unknown field 1, expected one of mode, instruction,"),
        ("threshold: 0.5\nthreshold: 0.6", "line 2, column 1: 'threshold' stands twice"),
        ("threshold: 0.5\n---\nthreshold: 0.6", "line 2, column 1: but found another document"),
        ("class_name: &a scratches", "line 1, column 13: found an anchor, an alias or a tag, expected plain values"),
        ("class_name: !!python/name:os.system", "line 1, column 13: found an anchor, an alias or a tag"),
        ("threshold: [", "line 1, column 13: expected the node content, but found '<stream end>'"),
        ("roi: " + "[" * 5000, "found lists within lists without end, expected fields"),
        ("? [a, b]\n: 1", "line 1, column 3: expected a plain name before the colon"),
        ("- threshold", "found ['threshold'], expected fields, such as threshold: 0.5"),
        ("# nothing yet", "found nothing, expected at least one of mode, instruction,"),
        ("", "found nothing, expected at least one of mode, instruction,"),
        ("class_name: a\0b", "unacceptable character #x0000"),
        ("#" * 70_000, "found more than 64 KiB, expected a recipe"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(text, error):
    with pytest.raises(InputError) as caught:
        parse("x", text.encode())
    assert error in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_look_and_an_instruction_that_are_too_long_together_are_refused():
    long = f"mode: describe-plus\nnormal_look: {'a' * 240}\ninstruction: {'b' * 300}"
    with pytest.raises(InputError, match=r"normal_look and instruction: found 542 characters together"):
        parse("x", long.encode())


def test_text_that_is_not_utf8_is_refused():
    with pytest.raises(InputError, match="byte 13 is no UTF-8 text"):
        parse("x", b"class_name: \xff")


def test_plain_words_of_yaml_11_are_texts():
    assert said("class_name: no").class_name == "no"


def test_the_examples_are_recipes():
    assert [recipe.name for recipe in RecipeBook(EXAMPLES).all()] == ["bracket", "cam-03", "default"]


# --- the folder


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "bolt.yaml").write_text("threshold: 0.5")
    return tmp_path


def threshold(book: RecipeBook, name: str = "bolt") -> float:
    return book.get(name).message.recipe.threshold


def test_a_changed_file_is_taken_up_once_it_has_settled(folder):
    book = RecipeBook(folder)
    told: list[str] = []
    book.on_change = lambda changed: told.extend(recipe.name for recipe in changed)
    before = book.get("bolt")
    (folder / "bolt.yaml").write_text("threshold: 0.7")
    (folder / "nut.yaml").write_text("min_score: 0.1")
    book.look()
    assert (threshold(book), book.find("nut")) == (0.5, None)
    book.look()
    assert (threshold(book), book.get("nut").message.recipe.min_score) == (0.7, 0.1)
    assert before.message.recipe.threshold == 0.5  # a frame in flight keeps its own
    assert sorted(told) == ["bolt", "nut"]
    book.look()
    assert len(told) == 2


def test_a_change_of_the_same_size_is_seen_by_a_coarse_clock_too(folder, monkeypatch):
    now = time.time()
    monkeypatch.setattr(recipes, "_look", lambda _: {"bolt.yaml": (now, now, 14, 1)})
    book = RecipeBook(folder)
    (folder / "bolt.yaml").write_text("threshold: 0.6")
    book.reload()
    assert threshold(book) == 0.6


def test_a_file_that_is_away_for_a_moment_is_not_removed(folder):
    book = RecipeBook(folder)
    (folder / "bolt.yaml").rename(folder / "bolt.yaml~")
    book.look()
    (folder / "bolt.yaml~").rename(folder / "bolt.yaml")
    book.look()
    book.look()
    assert threshold(book) == 0.5


def test_a_removed_file_is_a_removed_recipe(folder, caplog):
    book = RecipeBook(folder)
    (folder / "bolt.yaml").unlink()
    book.look()
    book.look()
    assert book.find("bolt") is None
    assert "recipe bolt: removed" in caplog.text
    assert book.states() == []


def test_a_broken_file_keeps_the_recipe_and_says_why_once(folder, caplog):
    caplog.set_level(logging.INFO, "agvas.recipes")
    book = RecipeBook(folder)
    good = book.get("bolt")
    caplog.clear()
    (folder / "bolt.yaml").write_text("threshold: 5.5")
    reason = "bolt.yaml: threshold: found 5.5, input should be less than or equal to 1"
    for _ in range(4):
        book.look()
    assert book.get("bolt") is good
    assert [record.getMessage() for record in caplog.records] == [f"recipe {reason}; the one before stays in use"]
    (state,) = book.states()
    assert (state.name, state.sha256, state.error) == ("bolt", good.sha256, reason)
    (folder / "bolt.yaml").write_text("threshold: 0.8")
    assert [state.error for state in book.reload()] == [""]
    assert threshold(book) == 0.8


def test_a_new_file_that_is_broken_is_no_recipe(folder):
    book = RecipeBook(folder)
    (folder / "nut.yaml").write_text("threshold: 5.5")
    _, nut = book.reload()
    assert (nut.name, nut.sha256) == ("nut", "")
    assert nut.error
    assert book.find("nut") is None


def test_a_broken_recipe_refuses_the_start(folder):
    (folder / "bolt.yaml").write_text("threshold: 5.5")
    with pytest.raises(InputError, match=rf"{folder}/bolt.yaml: threshold: found 5.5, input should be"):
        RecipeBook(folder)


def test_a_folder_that_is_not_there_refuses_the_start(tmp_path):
    with pytest.raises(InputError, match="expected a folder of recipes"):
        RecipeBook(tmp_path / "none")


def test_a_folder_that_goes_away_takes_no_recipe_along(folder, caplog):
    book = RecipeBook(folder)
    folder.rename(folder.with_name("elsewhere"))
    book.look()
    book.look()
    assert threshold(book) == 0.5
    assert caplog.text.count("all recipes stay") == 1
    with pytest.raises(NotNow, match="all recipes stay"):
        book.reload()


def test_links_may_not_leave_the_folder(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "secret.yaml"
    outside.write_text("threshold: 0.9")
    (folder / "link.yaml").symlink_to(outside)
    (folder / "inner.yaml").symlink_to("bolt.yaml")
    with pytest.raises(InputError, match=r"link\.yaml: found a link that leaves the folder"):
        RecipeBook(folder)
    (folder / "link.yaml").unlink()
    assert threshold(RecipeBook(folder), "inner") == 0.5


def test_a_mounted_folder_that_is_swapped_by_its_link_is_a_change(tmp_path):
    for version, value in (("v1", "0.1"), ("v2", "0.2")):
        (tmp_path / version).mkdir()
        (tmp_path / version / "bolt.yaml").write_text(f"threshold: {value}")
    (tmp_path / "..data").symlink_to("v1")
    (tmp_path / "bolt.yaml").symlink_to("..data/bolt.yaml")
    book = RecipeBook(tmp_path)
    (tmp_path / "new").symlink_to("v2")
    (tmp_path / "new").rename(tmp_path / "..data")
    book.look()
    book.look()
    assert threshold(book) == 0.2


@pytest.mark.parametrize("name", ["a b.yaml", "bolt.yml", "x.yaml.yaml", "é.yaml", f"{'n' * 65}.yaml"])
def test_a_name_that_no_request_could_say_is_refused(folder, name):
    (folder / name).write_text("threshold: 0.5")
    with pytest.raises(InputError, match=r"the file's name is none of a recipe, expected NAME\.yaml"):
        RecipeBook(folder)


def test_what_is_no_file_is_refused_without_being_opened(folder):
    os.mkfifo(folder / "pipe.yaml")
    with pytest.raises(InputError, match=r"pipe\.yaml: found no regular file"):
        RecipeBook(folder)


def test_files_of_editors_are_left_alone(folder):
    for name in (".bolt.yaml.swp", ".#bolt.yaml", "bolt.yaml~", ".x.yaml", "notes.txt"):
        (folder / name).write_text("threshold: 5.5")
    assert [recipe.name for recipe in RecipeBook(folder).all()] == ["bolt"]


def test_an_unknown_name_is_told_the_known_ones(folder):
    for number in range(12):
        (folder / f"part{number:02}.yaml").write_text("threshold: 0.5")
    with pytest.raises(InputError) as caught:
        RecipeBook(folder).get("../bolt\n")
    known = "bolt, part00, part01, part02, part03, part04, part05, part06 (and 5 more)"
    assert str(caught.value) == f"recipe_name: found '../bolt\\n', expected {known}"
    with pytest.raises(InputError, match="expected none, for the server has no recipes"):
        RecipeBook(None).get("bolt")


def test_the_watch_takes_up_changes_and_outlives_a_failing_hook(folder):
    book = RecipeBook(folder)
    changed = threading.Semaphore(0)

    def fail(_):
        changed.release()
        raise RuntimeError("the hook is broken")

    book.on_change = fail
    book.watch(0.01)
    try:
        for value in (0.6, 0.7):
            (folder / "bolt.yaml").write_text(f"threshold: {value}")
            assert changed.acquire(timeout=20)
            assert threshold(book) == value
    finally:
        book.close()


# --- one request of three


def test_the_request_goes_before_the_defaults_before_the_recipe():
    recipe = named("threshold: 0.1\nmin_area_px: 1\nmin_score: 0.1\nmask_format: none\ndeadline_ms: 10")
    defaults = pb.SegmentRequest(recipe=pb.Recipe(min_area_px=2, min_score=0.2), deadline_ms=20)
    request = pb.SegmentRequest(recipe=pb.Recipe(min_score=0.0), mask_format=pb.MASK_FORMAT_PNG)
    assert merge(recipe, defaults, request) == pb.SegmentRequest(
        recipe_name="x",
        recipe=pb.Recipe(threshold=0.1, min_area_px=2, min_score=0.0),
        mask_format=pb.MASK_FORMAT_PNG,
        deadline_ms=20,
    )


def test_decoding_is_merged_field_by_field():
    recipe = named("max_new_tokens: 64\nstrict_below: 0.5")
    request = pb.SegmentRequest(decoding=pb.Decoding(max_new_tokens=8, no_text=True))
    assert merge(recipe, None, request).decoding == pb.Decoding(max_new_tokens=8, strict_below=0.5, no_text=True)


def test_a_region_of_interest_is_one_value():
    request = pb.SegmentRequest(recipe=pb.Recipe(roi=pb.Box(x1=5, y1=6)))
    assert merge(named("roi: [1, 2, 30, 40]"), None, request).recipe.roi == pb.Box(x1=5, y1=6)


def test_neither_the_frame_nor_what_was_merged_is_touched():
    recipe, defaults = named("roi: [1, 2, 30, 40]"), pb.SegmentRequest(recipe=pb.Recipe(threshold=0.2))
    request = pb.SegmentRequest(frame=pb.Frame(encoded=b"pixels"), recipe=pb.Recipe(threshold=0.3))
    before = [copy.SerializeToString() for copy in (recipe.message, defaults, request)]
    merged = merge(recipe, defaults, request)
    assert not merged.HasField("frame")
    merged.recipe.roi.x0 = 9
    assert [copy.SerializeToString() for copy in (recipe.message, defaults, request)] == before


@pytest.mark.parametrize(
    ("recipe", "defaults", "request_", "merged"),
    [
        # an instruction and a class name displace each other, not the mode
        ("class_name: dents", {}, {"instruction": "Find it."}, {"instruction": "Find it."}),
        ("mode: general\ninstruction: Find it.", {}, {"class_name": "bolts"}, {"class_name": "bolts", "mode": 7}),
        ("class_name: dents", {"instruction": "Find it."}, {"class_name": "oil"}, {"class_name": "oil"}),
        # a mode displaces what it does not take
        ("mode: describe-plus\nnormal_look: Smooth.", {}, {"mode": 1}, {"mode": 1}),
        ("class_name: dents", {}, {"mode": 6, "instruction": "Why?"}, {"mode": 6, "instruction": "Why?"}),
        ("class_name: dents", {}, {"mode": 5}, {"mode": 5}),
        ("mode: describe-plus\nnormal_look: Smooth.", {"mode": 1}, {"mode": 3}, {"mode": 3, "normal_look": "Smooth."}),
        ("mode: describe-plus\nnormal_look: Smooth.", {}, {}, {"mode": 3, "normal_look": "Smooth."}),
        # what contradicts itself in one place, or has no mode of its own to go with, stays and is refused
        ("class_name: dents", {}, {"instruction": "a", "class_name": "b"}, {"instruction": "a", "class_name": "b"}),
        ("threshold: 0.5", {}, {"mode": 1, "normal_look": "Smooth."}, {"mode": 1, "normal_look": "Smooth."}),
        ("mode: direct", {}, {"normal_look": "Smooth."}, {"mode": 1, "normal_look": "Smooth."}),
    ],
)
def test_texts_displace_what_they_cannot_stand_beside(recipe, defaults, request_, merged):
    result = merge(named(recipe), pb.SegmentRequest(**defaults), pb.SegmentRequest(**request_))
    result.ClearField("recipe")
    result.ClearField("recipe_name")
    assert result == pb.SegmentRequest(**merged)


def test_without_a_recipe_none_is_named():
    assert merge(None, None, pb.SegmentRequest(recipe_name="gone")) == pb.SegmentRequest()
