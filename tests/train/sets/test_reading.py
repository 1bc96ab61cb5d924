"""Texts in one piece of memory, and what a fault of a record is called."""

import pytest

from agvas_runtime.errors import InputError
from agvas_train.data.sets.reading import Texts, naming


def test_texts_are_given_back_as_they_were():
    said = ["a.jpg", "", "é — 🙂", "half of a pair: \ud83d", "\udc80 of a file's name"]
    texts = Texts(said)
    texts.append("last")
    assert len(texts) == 6
    assert list(texts) == [*said, "last"]
    assert texts[-1] == "last"
    with pytest.raises(IndexError):
        texts[6]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError("Unable to allocate 931 GiB"), "x: not as its format says (Unable to allocate 931 GiB)"),
        (MemoryError(), "x: not as its format says (MemoryError)"),
        (OSError(36, "File name too long", "y" * 6000), f"x: File name too long: '{'y' * 59}..."),
        (OSError(5, "Input/output error"), "x: Input/output error"),
    ],
)
def test_what_memory_and_files_refuse_is_a_fault_of_the_record(error, said):
    with pytest.raises(InputError) as caught, naming("x"):
        raise error
    assert str(caught.value) == said
