"""YAML files that people write: one document of plain values, in which nothing is left to be guessed.

The plain types are those of YAML 1.2, so that `no` and `1:30` are texts and 1e-3 is a number. A key that stands twice
is refused, for one of its values would silently be nothing. So are tags, anchors and aliases: no such file has a use
for them, and they can make a small file very large.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any, NoReturn

import yaml

from agvas_runtime.console import one_line
from agvas_runtime.errors import InputError

MAX_BYTES = 1 << 20
"""Of a file, where nothing else is said."""
SHOWN_CHARACTERS = 60
"""Of a wrong value, in an error."""


def load(data: bytes, kind: str, *, most_bytes: int = MAX_BYTES, secret: bool = False) -> Any:
    """The value of a file's one document, None where there is none.

    Args:
        data: the file's content.
        kind: what it should be, for errors: "a recipe".
        most_bytes: a longer file is refused.
        secret: nothing that stands in the file stands in an error.

    Raises:
        InputError: it is no such file; one line that begins with the place, where there is one.
    """
    if len(data) > most_bytes:
        raise InputError(f"found more than {most_bytes // 1024} KiB, expected {kind}")
    try:
        return yaml.load(data.decode("utf-8-sig"), Loader=_SecretLoader if secret else _Loader)
    except UnicodeDecodeError as error:
        raise InputError(f"byte {error.start + 1} is no UTF-8 text") from None
    except yaml.MarkedYAMLError as error:  # its own text shows the line
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise InputError(one_line(f"{where}{error.problem or 'no YAML'}")) from None
    except RecursionError:
        raise InputError("found lists within lists without end, expected fields") from None
    except (yaml.YAMLError, ValueError) as error:
        text = type(error).__name__ if secret else str(error)
        raise InputError(one_line(f"no YAML: {text}")) from None


def shown(value: object) -> str:
    """A wrong value as an error shows it: printable, and no longer than somebody reads."""
    text = ascii(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


class _Loader(yaml.SafeLoader):
    """YAML's safe subset, and less of it."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def fetch_anchor(self) -> NoReturn:
        raise self._error("found an anchor, an alias or a tag, expected plain values")

    fetch_alias = fetch_tag = fetch_anchor

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self._error("expected a plain name before the colon", key.start_mark)
            if key.value in seen:
                raise self._error(f"{self._named(key.value)} stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def _named(self, key: str) -> str:
        return shown(key)

    def _error(self, problem: str, mark: yaml.Mark | None = None) -> yaml.MarkedYAMLError:
        return yaml.MarkedYAMLError(None, None, problem, mark or self.get_mark())


for _tag, _pattern, _first in (
    ("null", r"(?:~|null|Null|NULL|)", ["~", "n", "N", ""]),
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", list("-+0123456789")),
    ("float", r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"{_pattern}\Z"), _first)


class _SecretLoader(_Loader):
    """The same for files in which a secret may stand, also where none belongs."""

    def _named(self, key: str) -> str:
        return "a field"
