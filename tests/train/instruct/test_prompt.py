"""The words that go out are the paper's."""

import hashlib
import os
from pathlib import Path

import pytest

from agvas_train.data.instruct.prompt import NORMAL_NOTE, SYSTEM_PROMPT, first_ask, second_ask
from agvas_train.data.instruct.rules import read_answer

REPOSITORY = Path(__file__).resolve().parents[3]
PLACES = [os.environ.get("AGVAS_SHARED"), REPOSITORY / "shared", REPOSITORY.parent / "shared"]


def test_the_system_prompt_is_that_of_figure_a5():
    found = [file for place in PLACES if place and (file := Path(place) / "ag-vas-appendix.txt").is_file()]
    if not found:
        pytest.skip("no appendix of the paper beside the repository (AGVAS_SHARED)")
    assert SYSTEM_PROMPT.removesuffix("\n```") in found[0].read_text(encoding="utf-8")


def test_nobody_changes_the_system_prompt_in_passing():
    digest = hashlib.sha256(SYSTEM_PROMPT.encode()).hexdigest()
    assert digest == "d4cc5cde7a847008a4aea524e2e3f8800ce5f359383303fbbc4ce79679166409"


def test_the_figures_own_example_may_be_used():
    assert read_answer(SYSTEM_PROMPT[SYSTEM_PROMPT.index("Example output") :], anomalous=True).exists


def test_the_three_pictures_follow_their_names():
    system, user = first_ask(["data:a", "data:b", "data:c"], anomalous=True)
    assert system == {"role": "system", "content": SYSTEM_PROMPT}
    said = [part.get("text") or part["image_url"]["url"] for part in user["content"]]
    assert said == ["Image A:", "data:a", "Image B:", "data:b", "Image C:", "data:c"]


def test_only_a_normal_image_is_called_one():
    contents = [first_ask(["a", "b", "c"], anomalous)[1]["content"] for anomalous in (True, False)]
    assert [{"type": "text", "text": NORMAL_NOTE} in content for content in contents] == [False, True]


def test_the_second_question_names_what_was_wrong():
    first = first_ask(["a", "b", "c"], True)
    messages = second_ask(first, "the wrong answer", ["Summary is empty", "Diagnosis is empty"])
    assert messages[:2] == first
    assert messages[2] == {"role": "assistant", "content": "the wrong answer"}
    assert "Summary is empty; Diagnosis is empty" in messages[3]["content"]
