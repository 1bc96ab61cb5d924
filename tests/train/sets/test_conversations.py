"""Conversations: "<image>" to the front, a leading answer dropped, several images, mixtures, VisA-D&R."""

import json
import pickle

import pytest

from agvas_runtime.errors import InputError
from agvas_train.data.sets.conversations import ConversationMix, Conversations, chosen
from agvas_train.data.sets.visa_dr import VisaDetection
from tests.train.sets.files import document, text
from tests.train.sets.miniatures import said


def turns(sample):
    return [(message.role, message.text) for message in sample.conversation]


def test_the_image_comes_first_in_the_turn_that_shows_it(sets):
    sample = sets["llava-150k"].sample(0)
    assert turns(sample) == [
        ("human", "<image>\nWhat is it?"),
        ("gpt", "A dog."),
        ("human", "Where?"),
        ("gpt", "Left."),
    ]
    assert sample.images[0].name == "000000000009.jpg"
    assert sample.anchors == ()
    assert sample.pixels[0].shape == (8, 12, 3)


def test_a_leading_answer_is_dropped(sets):
    assert turns(sets["llava-150k"].sample(1)) == [("human", "<image>\nHm?"), ("gpt", "Yes.")]


def test_several_images_are_padded_to_squares(sets):
    sample = sets["webad"].sample(0)
    assert sample.conversation[0].text == "<image>\n<image>\nand : which is worse?"
    wide, tall = sample.pixels
    assert wide.shape == (12, 12, 3)
    assert (wide[:2] == 127).all()
    assert (wide[10:] == 127).all()
    assert tall.shape == (6, 6, 3)
    assert (tall[:, [0, 5]] == 127).all()
    assert tall[:, 1:5].std() > 10


def test_bmad_and_visa_d_r(sets):
    assert turns(sets["bmad"].sample(0))[1] == ("gpt", "No.")
    yes, no = (sets["visa-detection"].sample(index) for index in range(2))
    assert (yes.anomaly.present, no.anomaly.present) == (True, False)
    assert yes.anomaly.mask is None
    assert yes.anchors == ()
    assert turns(sets["visa-reasoning"].sample(0)) == [("human", "What is wrong?"), ("human", "Why?")]


def test_a_record_without_image(tmp_path):
    file = document(tmp_path / "x.json", [{"conversations": said(("human", "Hi"), ("gpt", "Ho"))}])
    sample = Conversations("x", file, tmp_path).sample(0)
    assert sample.images == ()
    assert sample.pixels == ()


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        ({"image": "a.png"}, "found no 'conversations', expected it"),
        ({"conversations": []}, "found turns of nobody, expected human and gpt in turn"),
        ({"conversations": said(("human", "a"))}, "found turns of human, expected"),
        ({"conversations": said(("human", "a"), (None, "b"))}, "found turns of human, None, expected"),
        ({"conversations": said(("human", "a"), ("human", "b"))}, "found turns of human, human, expected"),
        ({"conversations": said(("human", "a"), ("system", "b"))}, "found turns of human, system, expected"),
        ({"image": "../a.png", "conversations": []}, "found the path '../a.png'"),
    ],
)
def test_a_broken_record_is_an_error_that_names_it(tmp_path, record, fault):
    file = document(tmp_path / "x.json", [record])
    with pytest.raises(InputError, match=f"x.json, record 0: {fault}"):
        Conversations("x", file, tmp_path).sample(0)


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("all", [0, 1, 2, 3, 4, 5, 6]),
        ("first:3", [0, 1, 2]),
        ("end:2", [5, 6]),
        ("first:20%", [0, 1]),  # 1.4, rounded up
        ("end:100%", [0, 1, 2, 3, 4, 5, 6]),
        ("first:99", [0, 1, 2, 3, 4, 5, 6]),
        ("end:0", []),
    ],
)
def test_sampling_strategies(strategy, expected):
    assert list(chosen(strategy, 7, "0")) == expected


def test_a_random_part_depends_on_its_seed_alone():
    part = chosen("random:30%", 100, "1")
    assert part == chosen("random:30", 100, "1")
    assert len(set(part)) == 30
    assert part != chosen("random:30", 100, "2")


@pytest.fixture
def mix(tmp_path):
    def talk(name, count):
        return [{"conversations": said(("human", f"{name}{number}"), ("gpt", "x"))} for number in range(count)]

    document(tmp_path / "a.json", talk("a", 5))
    text(tmp_path / "more/b.jsonl", "\n".join(json.dumps(each) for each in talk("b", 10)))
    listed = """datasets:
  - {json_path: a.json, sampling_strategy: "end:2"}
  - {json_path: more/b.jsonl, sampling_strategy: "random:30%"}
  - {json_path: a.json, sampling_strategy: "first:20%"}
"""
    return ConversationMix("mix", text(tmp_path / "mix.yaml", listed), tmp_path)


def test_a_mixture_of_files(mix):
    said_first = [mix.sample(index).conversation[0].text for index in range(len(mix))]
    assert len(mix) == 6
    assert said_first[:2] == ["a3", "a4"]
    assert [each[0] for each in said_first[2:5]] == ["b", "b", "b"]
    assert said_first[5] == "a0"
    again = pickle.loads(pickle.dumps(mix))
    assert [again.sample(index).conversation[0].text for index in range(len(again))] == said_first


def test_your_own_conversations_are_a_set_by_name(sets):
    sample = sets["own-conversations"].sample(0)
    assert turns(sample) == [("human", "<image>\nWorn?"), ("gpt", "No.")]
    assert sample.images[0].name == "e.png"


@pytest.mark.parametrize(
    ("listed", "fault"),
    [
        ("datasets: [{json_path: a.json, sampling_strategy: some}]", "found the sampling strategy 'some', expected"),
        ("data: []", "found no 'datasets', expected it"),
        ("datasets: [", "found no YAML"),
        ("datasets: []\ndatasets: []", "found no YAML of plain values .line 2, column 1: 'datasets' stands twice"),
        ("[" * 20_000, "found no YAML"),
    ],
)
def test_a_broken_mixture_is_an_error_that_names_it(tmp_path, listed, fault):
    document(tmp_path / "a.json", [])
    with pytest.raises(InputError, match=f"mix.yaml: .*{fault}"):
        len(ConversationMix("mix", text(tmp_path / "mix.yaml", listed), tmp_path))


def test_an_answer_that_is_neither_yes_nor_no(tmp_path):
    file = document(tmp_path / "test_data.json", [{"image": "a.png", "anomaly": "maybe"}])
    with pytest.raises(InputError, match=r"test_data.json, record 0: .*found 'maybe', expected one of true"):
        VisaDetection("x", file, tmp_path).sample(0)
