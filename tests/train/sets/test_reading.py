"""Texts in one piece of memory."""

import pytest

from agvas_train.data.sets.reading import Texts


def test_texts_are_given_back_as_they_were():
    said = ["a.jpg", "", "é — 🙂", "half of a pair: \ud83d", "\udc80 of a file's name"]
    texts = Texts(said)
    texts.append("last")
    assert len(texts) == 6
    assert list(texts) == [*said, "last"]
    assert texts[-1] == "last"
    with pytest.raises(IndexError):
        texts[6]
