"""Every template of the appendix is there word for word, and what is not the paper's says so."""

import json
import os
import re
from pathlib import Path

import pytest

from agvas_runtime.templates import CLASS_FIELD, Templates, default_templates
from agvas_train.data.conversation import ENDINGS

REPOSITORY = Path(__file__).resolve().parents[3]
PLACES = [os.environ.get("AGVAS_SHARED"), REPOSITORY / "shared", REPOSITORY.parent / "shared"]
HEADINGS = {
    "direct_instructions": "Instruction Templates For Direct Segmentation:",
    "direct_answers": "Answer Templates For Direct Segmentation:",
    "describe_instructions": "Instruction Templates For Describe-then-Segment:",
    "rejections": "Instruction Templates For Rejection:",
}


@pytest.fixture(scope="module")
def appendix() -> str:
    found = [file for place in PLACES if place and (file := Path(place) / "ag-vas-appendix.txt").is_file()]
    if not found:
        pytest.skip("no appendix of the paper beside the repository (AGVAS_SHARED)")
    return found[0].read_text(encoding="utf-8")


@pytest.mark.parametrize("name", HEADINGS)
def test_the_paper_s_lists_are_whole_and_in_order(appendix: str, name: str) -> None:
    block = re.match(r"\s*(- .*\n)+", appendix.split(HEADINGS[name], 1)[1])
    assert block is not None
    listed = re.findall(r'^- "(.*)",?$', block[0].strip(), re.MULTILINE)
    assert len(listed) == block[0].strip().count("\n") + 1
    assert list(getattr(default_templates(), name)) == listed


def test_the_class_names_are_the_set_of_figure_a6(appendix: str) -> None:
    found = re.search(r"\{class_name\}: (\[.*\])", appendix)
    assert found is not None
    assert list(default_templates().class_names) == json.loads(found[1])


def test_the_default_instruction_is_the_paper_s(appendix: str) -> None:
    assert f'"{default_templates().default_instruction.removesuffix(".")}"' in appendix


def test_the_instruction_that_section_a1_quotes_is_there(appendix: str) -> None:
    quoted = re.findall(r'the instruction template "(.*?)"', appendix)
    assert [each.replace(r"$\{class_name\}$", CLASS_FIELD) + "." for each in quoted] == list(
        default_templates().quoted_instructions
    )


def test_how_questions_end_is_ours_and_says_so() -> None:
    assert ENDINGS.keys() - {"sources"} == ENDINGS["sources"].keys()
    assert all(source.startswith("ours") for source in ENDINGS["sources"].values())
    ends = tuple(ENDINGS["plain"])
    assert sum(template.endswith(ends) for template in default_templates().direct_instructions) == len(ends)


def test_every_list_says_where_it_is_from() -> None:
    templates = default_templates()
    lists = set(Templates.model_fields) - {"sources"}
    assert set(templates.sources) == lists
    paper = {name for name, source in templates.sources.items() if not source.startswith("ours")}
    assert paper == {*HEADINGS, "class_names", "default_instruction", "quoted_instructions"}


def test_templates_of_before_are_read_and_the_class_of_a_quoted_instruction_is_found() -> None:
    held = default_templates().model_dump(mode="json")
    del held["quoted_instructions"], held["sources"]["quoted_instructions"]
    before = Templates.model_validate(held)
    asked = default_templates().quoted_instructions[0].replace(CLASS_FIELD, "bent pins")
    assert before.quoted_instructions == ()
    assert default_templates().class_of(asked) == "bent pins"
