"""The template trie: merging, ancestors, and the greedy walk."""

import numpy as np
import pytest

from agvas_runtime.result import AnswerKind
from agvas_runtime.trie import Trie, build_trie, walk

END = 9


@pytest.fixture
def trie() -> Trie:
    """Answers 1 2 3, 1 2, 1 4 and 5, each with the end token."""
    segmented, rejected = AnswerKind.SEGMENTED, AnswerKind.REJECTED
    return build_trie(
        [
            ("abc", segmented, (1, 2, 3, END)),
            ("ab", segmented, (1, 2, END)),
            ("ad", rejected, (1, 4, END)),
            ("e", rejected, (5, END)),
            ("e again", rejected, (5, END)),
        ]
    )


def test_shared_beginnings_are_one_path(trie: Trie) -> None:
    assert trie.tokens.tolist() == [1, 2, 3, 4, 5]
    assert trie.parent_rows.tolist() == [0, 1, 2, 1, 0]
    assert trie.depths.tolist() == [1, 2, 3, 2, 1]


def test_equal_answers_are_merged_and_the_first_text_stays(trie: Trie) -> None:
    assert [answer.text for answer in trie.answers] == ["abc", "ab", "ad", "e"]


def test_an_answers_edges_lead_from_the_root_to_the_end_token(trie: Trie) -> None:
    for answer in trie.answers:
        edges = list(answer.edges)
        assert trie.edge_rows[edges].tolist() == [0, *answer.rows]
        assert trie.edge_tokens[edges].tolist() == [*answer.tokens, END]


def test_a_node_sees_itself_and_its_ancestors_only(trie: Trie) -> None:
    expected = np.eye(5, dtype=bool)
    expected[1, 0] = expected[2, 0] = expected[2, 1] = expected[3, 0] = True
    assert (trie.ancestors() == expected).all()


@pytest.mark.parametrize(
    ("greedy", "rows", "text"),
    [
        ([1, 2, 3, END, 0, 0], (0, 1, 2, 3), "abc"),
        ([1, 2, END, 0, 0, 0], (0, 1, 2), "ab"),
        ([5, 0, 0, 0, 0, END], (0, 5), "e"),
        ([7, 0, 0, 0, 0, 0], (0,), None),  # left at the root
        ([1, 2, 8, 0, 0, 0], (0, 1, 2), None),  # left inside
        ([1, END, 0, 0, 0, 0], (0, 1), None),  # the end token where no answer ends
        ([END, 0, 0, 0, 0, 0], (0,), None),  # an empty answer
    ],
)
def test_the_walk_follows_greedy_tokens(trie: Trie, greedy: list[int], rows: tuple[int, ...], text: str | None) -> None:
    walked = walk(trie, np.array(greedy), END)
    assert walked.rows == rows
    assert (walked.answer.text if walked.answer else None) == text
