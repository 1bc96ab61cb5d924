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
            (segmented, (1, 2, 3, END)),
            (segmented, (1, 2, END)),
            (rejected, (1, 4, END)),
            (rejected, (5, END)),
            (segmented, (5, END)),
        ],
        END,
    )


def test_shared_beginnings_are_one_path(trie: Trie) -> None:
    assert trie.tokens.tolist() == [1, 2, 3, 4, 5]
    assert trie.parent_rows.tolist() == [0, 1, 2, 1, 0]
    assert trie.depths.tolist() == [1, 2, 3, 2, 1]


def test_equal_answers_are_merged_and_the_first_kind_stays(trie: Trie) -> None:
    assert [answer.tokens for answer in trie.answers] == [(1, 2, 3), (1, 2), (1, 4), (5,)]
    assert trie.answers[-1].kind is AnswerKind.REJECTED


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
    ("greedy", "rows"),
    [
        ([1, 2, 3, END, 0, 0], (0, 1, 2, 3)),
        ([1, 2, END, 0, 0, 0], (0, 1, 2)),
        ([5, 0, 0, 0, 0, END], (0, 5)),
        ([7, 0, 0, 0, 0, 0], (0,)),  # left at the root
        ([1, 2, 8, 0, 0, 0], (0, 1, 2)),  # left inside
        ([1, END, 0, 0, 0, 0], (0, 1)),  # the end token where no answer ends
        ([END, 0, 0, 0, 0, 0], (0,)),  # an empty answer
    ],
)
def test_the_walk_follows_greedy_tokens(trie: Trie, greedy: list[int], rows: tuple[int, ...]) -> None:
    assert walk(trie, np.array(greedy)) == rows


def test_a_beginning_has_no_edge_to_the_end() -> None:
    """Behind it the model writes freely: its probability is that of its own tokens."""
    trie = build_trie([(AnswerKind.SEGMENTED, (1, 2)), (AnswerKind.REJECTED, (1, 3, END))], END)
    begun, whole = trie.answers
    assert (begun.tokens, whole.tokens) == ((1, 2), (1, 3))
    assert trie.edge_tokens[list(begun.edges)].tolist() == [1, 2]
    assert trie.edge_tokens[list(whole.edges)].tolist() == [1, 3, END]
    assert len(trie.edge_rows) == 4
