"""YAML files that people write: which values plain words are, what is refused, and what an error shows of a file."""

import pytest

from agvas_runtime import strict_yaml
from agvas_runtime.errors import InputError

SECRET = "hunter2-hunter2"


def error(text: str, **more: bool) -> str:
    """What a file is refused with."""
    with pytest.raises(InputError) as caught:
        strict_yaml.load(text.encode("utf-8", "surrogateescape"), "a file", **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("010", "010"),
        ("0x10", "0x10"),
        ("1_000", "1_000"),
        (".nan", ".nan"),
        ("2026-11-26", "2026-11-26"),
        ("<<", "<<"),
        ("true", True),
        ("~", None),
        ("-12", -12),
        ("1e-3", 0.001),
        (".5", 0.5),
        ("a & b * c !", "a & b * c !"),
        ("", None),
        ("# nothing", None),
        ("\ufeff[a]", ["a"]),
        ("{a: {b: [1]}, c: }", {"a": {"b": [1]}, "c": None}),
    ],
)
def test_plain_words_are_what_yaml_1_2_says(text, value):
    found = strict_yaml.load(text.encode(), "a file")
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("text", ["- &{} a", "- *{}", "- !{} a", "- !<{}> a", "- !a!{} a", "- !!python/name:{} a"])
def test_anchors_aliases_and_tags_are_refused_where_they_begin_and_not_shown(text):
    found = "line 1, column 3: found an anchor, an alias or a tag, expected plain values"
    assert error(text.format(SECRET)) == found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb:\n  c: 1\n  c: 2", "line 4, column 3: 'c' stands twice"),
        ("a: 1\n'a': 2", "line 2, column 1: 'a' stands twice"),
        ("- [a, {b: 1, b: 2}]", "line 1, column 14: 'b' stands twice"),
        ("{[a]: 1}", "line 1, column 2: expected a plain name before the colon"),
        ("a: 1\n---\nb: 1", "line 2, column 1: but found another document"),
        ("a:\n\t- b", "line 2, column 1: found character '\\t' that cannot start any token"),
        ("[" * 5000, "found lists within lists without end, expected fields"),
        ("a\0b", 'no YAML: unacceptable character #x0000: special characters are not allowed in "<unicode string>"'),
        ("a: \udcff", "byte 4 is no UTF-8 text"),
        ("#" * ((1 << 20) + 1), "found more than 1024 KiB, expected a file"),
        (f"a: {'1' * 5000}", "no YAML: Exceeds the limit"),
    ],
)
def test_what_is_wrong_is_one_line_that_begins_with_its_place(text, expected):
    assert error(text).startswith(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{0}: 1\n{0}: 2", "line 2, column 1: a field stands twice"),
        ("- {0}\0", "no YAML: ReaderError"),
        ("- a: {0}\n  : ]", "line 2, column 3: expected <block end>"),
        ('- "{0}', "line 1, column "),
    ],
)
def test_of_a_file_with_secrets_an_error_shows_nothing(text, expected):
    found = error(text.format(SECRET), secret=True)
    assert found.startswith(expected)
    assert "hunter" not in found
