"""The template trie: all known answers as one tree, so that one forward pass proves what greedy decoding would write.

Each node holds a token and sees the prompt and its own ancestors only. The end token is an edge without a node: whoever
reaches it has written exactly that answer (AG-VAS's direct segmentation made lossless and single-pass).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from agvas_runtime.result import AnswerKind

ROOT_ROW = 0
"""Row 0 of every per-row output is the last prompt token; row i + 1 is node i."""


@dataclass(frozen=True)
class TrieAnswer:
    """One known answer, whole or its beginning: kind, token ids (without the end token) and the rows that write it."""

    kind: AnswerKind
    tokens: tuple[int, ...]
    rows: tuple[int, ...]
    """The rows of its tokens, first to last; greedy decoding passes row 0 and then these."""
    edges: tuple[int, ...]
    """The edges from the root to the last token, and to the end token of a whole answer; the product of their
    probabilities is the answer's."""


@dataclass(frozen=True)
class Trie:
    """The merged answers.

    Attributes:
        tokens: int64 [K], token of each node.
        parent_rows: int64 [K], row of each node's parent (0 is the last prompt token).
        depths: int64 [K], 1 for the children of the root.
        edge_rows, edge_tokens: int64 [E], the row an edge leaves from and the token it writes.
        answers: the answers, equal ones once.
    """

    tokens: NDArray[np.int64]
    parent_rows: NDArray[np.int64]
    depths: NDArray[np.int64]
    edge_rows: NDArray[np.int64]
    edge_tokens: NDArray[np.int64]
    answers: tuple[TrieAnswer, ...]

    @cached_property
    def children(self) -> dict[tuple[int, int], int]:
        """(row, token) to the child's row."""
        pairs = zip(self.parent_rows.tolist(), self.tokens.tolist(), strict=True)
        return {pair: node + 1 for node, pair in enumerate(pairs)}

    def ancestors(self) -> NDArray[np.bool_]:
        """Bool [K, K]: node i sees node j (itself and its ancestors)."""
        size = len(self.tokens)
        sees = np.eye(size, dtype=bool)
        for node, parent_row in enumerate(self.parent_rows):  # parents come before their children
            if parent_row != ROOT_ROW:
                sees[node] |= sees[parent_row - 1]
        return sees


def build_trie(answers: Iterable[tuple[AnswerKind, Sequence[int]]], end_id: int) -> Trie:
    """Merge answers into a trie.

    Args:
        answers: (kind, token ids). Those that do not end with the end token are beginnings, behind which the model
            writes freely. Equal id sequences are merged, the first one stays.
        end_id: the end token.
    """
    tokens: list[int] = []
    parent_rows: list[int] = []
    depths: list[int] = []
    edges: dict[tuple[int, int], int] = {}
    children: dict[tuple[int, int], int] = {}
    found: dict[tuple[int, ...], TrieAnswer] = {}
    for kind, ids in answers:
        row, rows, path = ROOT_ROW, [], []
        for depth, token in enumerate(map(int, ids), start=1):
            path.append(edges.setdefault((row, token), len(edges)))
            if token == end_id:
                break
            if (row, token) not in children:
                tokens.append(token)
                parent_rows.append(row)
                depths.append(depth)
                children[row, token] = len(tokens)
            row = children[row, token]
            rows.append(row)
        found.setdefault(tuple(ids), TrieAnswer(kind, tuple(ids[: len(rows)]), tuple(rows), tuple(path)))
    return Trie(
        tokens=np.array(tokens, np.int64),
        parent_rows=np.array(parent_rows, np.int64),
        depths=np.array(depths, np.int64),
        edge_rows=np.array([row for row, _ in edges], np.int64),
        edge_tokens=np.array([token for _, token in edges], np.int64),
        answers=tuple(found.values()),
    )


def walk(trie: Trie, greedy: NDArray[np.int64]) -> tuple[int, ...]:
    """The rows that greedy decoding passes, root first: by the greedy tokens (int64 [K + 1], one a row) from child to
    child. The last one's token is the end token, or one that no known answer has there."""
    rows = [ROOT_ROW]
    while (child := trie.children.get((rows[-1], int(greedy[rows[-1]])))) is not None:
        rows.append(child)
    return tuple(rows)
