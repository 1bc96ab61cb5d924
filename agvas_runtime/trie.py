"""The template trie: all known answers as one tree, so that one forward pass proves what greedy decoding would write.

Each node holds a token and sees the prompt and its own ancestors only. The end token is an edge without a node: whoever
reaches it has written exactly that answer (AG-VAS's direct segmentation made lossless and single-pass).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from agvas_runtime.result import AnswerKind

ROOT_ROW = 0
"""Row 0 of every per-row output is the last prompt token; row i + 1 is node i."""


@dataclass(frozen=True)
class TrieAnswer:
    """One known answer: its text, kind, token ids (without the end token) and the rows that write it."""

    text: str
    kind: AnswerKind
    tokens: tuple[int, ...]
    rows: tuple[int, ...]
    """The rows of its tokens, first to last; greedy decoding passes row 0 and then these."""
    edges: tuple[int, ...]
    """The edges from the root to the end token; the product of their probabilities is the answer's."""


@dataclass(frozen=True)
class Trie:
    """The merged answers.

    Attributes:
        tokens: int64 [K], token of each node.
        parent_rows: int64 [K], row of each node's parent (0 is the last prompt token).
        depths: int64 [K], 1 for the children of the root.
        edge_rows, edge_tokens: int64 [E], the row an edge leaves from and the token it writes.
        answers: the answers, one for each end-token edge.
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


@dataclass(frozen=True)
class Walk:
    """Where greedy decoding went: the rows it passed (root first) and the answer it finished, or None if it left."""

    rows: tuple[int, ...]
    answer: TrieAnswer | None


def build_trie(answers: Sequence[tuple[str, AnswerKind, Sequence[int]]]) -> Trie:
    """Merge answers into a trie.

    Args:
        answers: (text, kind, token ids ending with the end token). Equal id sequences are merged, the first one stays.
    """
    tokens: list[int] = []
    parent_rows: list[int] = []
    depths: list[int] = []
    edges: dict[tuple[int, int], int] = {}
    children: dict[tuple[int, int], int] = {}
    found: dict[tuple[int, ...], TrieAnswer] = {}
    for text, kind, ids in answers:
        *body, end = map(int, ids)
        row, rows, path = ROOT_ROW, [], []
        for depth, token in enumerate(body, start=1):
            path.append(edges.setdefault((row, token), len(edges)))
            if (row, token) not in children:
                tokens.append(token)
                parent_rows.append(row)
                depths.append(depth)
                children[row, token] = len(tokens)
            row = children[row, token]
            rows.append(row)
        path.append(edges.setdefault((row, end), len(edges)))
        found.setdefault(tuple(body), TrieAnswer(text, kind, tuple(body), tuple(rows), tuple(path)))
    return Trie(
        tokens=np.array(tokens, np.int64),
        parent_rows=np.array(parent_rows, np.int64),
        depths=np.array(depths, np.int64),
        edge_rows=np.array([row for row, _ in edges], np.int64),
        edge_tokens=np.array([token for _, token in edges], np.int64),
        answers=tuple(found.values()),
    )


def walk(trie: Trie, greedy: NDArray[np.int64], end_id: int) -> Walk:
    """Follow the greedy tokens (int64 [K + 1], one a row) from the root until the end token or out of the trie."""
    row, rows = ROOT_ROW, [ROOT_ROW]
    while True:
        token = int(greedy[row])
        if token == end_id:
            body = tuple(rows[1:])
            return Walk(tuple(rows), next((a for a in trie.answers if a.rows == body), None))
        if (row, token) not in trie.children:
            return Walk(tuple(rows), None)
        row = trie.children[row, token]
        rows.append(row)
