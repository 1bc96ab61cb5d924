"""How an instruction and an answer become token ids, for training and for serving alike.

The chat template and the answers are ours and may hold special tokens; whatever comes from a user (instruction, class
name, normal look) is tokenised with every special and added token disabled, so nobody can write an anchor or close a
turn. Where a tokenizer's own words could still become one, the text is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict
from tokenizers import Tokenizer

from agvas_runtime.errors import BundleError, InputError

INSTRUCTION_FIELD = "{instruction}"
MAX_INSTRUCTION_CHARACTERS = 500
"""Of the whole instruction, a normal look before it included."""

# what a byte stream or a terminal would take for a command, and halves of UTF-16 pairs; line ends and tabs are text
_NO_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")

Piece = int | str
"""A special token's id, or plain text."""


class PromptSpec(BaseModel):
    """The chat template and the special tokens of one model; part of every checkpoint and bundle."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    chat_template: str
    """One turn up to where the answer begins, with the image token and `{instruction}` in it."""
    image_token: str
    end_token: str
    anchors: tuple[str, str, str]
    """The anchors in the order they are emitted: normal, anomalous, absolute."""
    default_instruction: str


@dataclass(frozen=True)
class Prompt:
    """The token ids on either side of the visual tokens."""

    before: tuple[int, ...]
    after: tuple[int, ...]


def check_text(field: str, text: str, most: int) -> None:
    """Raise InputError, naming the field, where a user's text is blank, longer than `most` characters, or no text."""
    if len(text) > most:
        raise InputError(f"{field}: found {len(text)} characters, expected at most {most}")
    if not text.strip():
        raise InputError(f"{field}: found a blank text, expected words")
    if found := _NO_TEXT.search(text):
        raise InputError(f"{field}: character {found.start() + 1} is {found.group()!a}, expected readable text")


class Prompter:
    """Turns instructions and answers into token ids and back.

    Args:
        tokenizer_json: the text of a `tokenizer.json`.
        spec: chat template and special tokens; each of the special ones must be an added token of the tokenizer.

    Raises:
        BundleError: the tokenizer cannot be read, or lacks a token that the spec names.
    """

    def __init__(self, tokenizer_json: str, spec: PromptSpec) -> None:
        try:
            document = json.loads(tokenizer_json)
            tokens = document.get("added_tokens", [])
            added = {token["content"]: int(token["id"]) for token in tokens}
            special = {token["content"] for token in tokens if token.get("special")}
            self._tokenizer = Tokenizer.from_str(tokenizer_json)
            whole = {"truncation": None, "padding": None}  # libraries save the last use's settings with a tokenizer
            self._plain = Tokenizer.from_str(json.dumps({**document, **whole, "added_tokens": []}))
        except Exception as error:  # tokenizers raises bare Exception
            raise BundleError(f"tokenizer.json cannot be read: {error}") from None
        for token in (spec.image_token, spec.end_token, *spec.anchors):
            if token not in added:
                raise BundleError(f"tokenizer.json has no added token {token!r}, which the prompt needs")
        for field in (spec.image_token, INSTRUCTION_FIELD):
            if spec.chat_template.count(field) != 1:
                raise BundleError(f"chat template must hold {field!r} once: {spec.chat_template!r}")
        self.spec = spec
        self.image_id = added[spec.image_token]
        self.end_id = added[spec.end_token]
        self.anchor_ids = tuple(added[anchor] for anchor in spec.anchors)
        self.vocabulary_size = self._tokenizer.get_vocab_size(with_added_tokens=True)
        self._added = added
        self._reserved = {added[token]: token for token in (*special, spec.image_token, spec.end_token, *spec.anchors)}
        self._split = re.compile("(" + "|".join(map(re.escape, sorted(added, key=len, reverse=True))) + ")")
        self._before, self._after = spec.chat_template.split(spec.image_token)

    def prompt(self, instruction: str) -> Prompt:
        """Token ids of one turn around the image, up to where the answer begins.

        Raises:
            InputError: the instruction is blank, longer than 500 characters, or no readable text.
            BundleError: the tokenizer has a special token among its ordinary words, and the instruction holds it.
        """
        check_text("instruction", instruction, MAX_INSTRUCTION_CHARACTERS)
        before = self._encode(self._filled(self._before, instruction))
        return Prompt(before=tuple(before), after=tuple(self._encode(self._filled(self._after, instruction))))

    def answer(self, text: str, *, anchors: bool) -> tuple[int, ...]:
        """Token ids of an answer and its end token, tokenised jointly with the end of the prompt.

        Args:
            text: the answer.
            anchors: recognise anchors in the text. False for texts that may hold a user's words.

        Raises:
            BundleError: the tokenizer merges the prompt's end with the answer's beginning, or has a special token
                among its ordinary words, and the text holds it.
        """
        tail = self._pieces(self._after.rsplit(INSTRUCTION_FIELD, 1)[-1])
        while tail and isinstance(tail[0], str) and any(isinstance(piece, int) for piece in tail):
            tail = tail[1:]
        body: list[Piece] = self._anchor_pieces(text) if anchors else [text]
        prompt_ids = self._encode(tail)
        ids = self._encode([*tail, *body, self.end_id])
        if ids[: len(prompt_ids)] != prompt_ids:
            raise BundleError(f"the tokenizer merges the prompt's end with the answer {text!r}")
        return tuple(ids[len(prompt_ids) :])

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, anchors included, without the end token."""
        return self._tokenizer.decode([i for i in ids if i != self.end_id], skip_special_tokens=False)

    def _filled(self, template: str, instruction: str) -> list[Piece]:
        before, field, after = template.partition(INSTRUCTION_FIELD)
        return [*self._pieces(before), instruction, *self._pieces(after)] if field else self._pieces(before)

    def _pieces(self, template: str) -> list[Piece]:
        return [self._added.get(part, part) for part in self._split.split(template) if part]

    def _anchor_pieces(self, text: str) -> list[Piece]:
        pattern = "(" + "|".join(map(re.escape, self.spec.anchors)) + ")"
        return [self._added[part] if part in self.spec.anchors else part for part in re.split(pattern, text) if part]

    def _encode(self, pieces: Sequence[Piece]) -> list[int]:
        """Ids of the pieces; neighbouring plain texts are tokenised as one."""
        ids: list[int] = []
        plain = ""
        for piece in [*pieces, -1]:
            if isinstance(piece, str):
                plain += piece
                continue
            if plain:
                words = self._plain.encode(plain, add_special_tokens=False).ids
                if made := self._reserved.keys() & words:
                    token = self._reserved[min(made)]
                    raise BundleError(f"tokenizer.json: makes {token!r} of plain text, expected an added token only")
                ids.extend(words)
                plain = ""
            if piece >= 0:
                ids.append(piece)
        return ids
