"""The page and what it is made of: headings, facts, tables, figures. Every text is escaped here and nowhere else."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

from agvas_runtime.bench.figures import PERCENTILES
from agvas_runtime.bench.report.style import Plot
from agvas_runtime.bench.report.text import NOT_KNOWN, mib, ms

FIGURES = (*PERCENTILES, "mean")
"""Of many values, as tables show them."""

STYLE = """
:root { color-scheme: light dark; --ink: #222; --faint: #666; --line: #ddd; --ground: #fff; --bad: #c1272d }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e4e4; --faint: #a0a0a0; --line: #444; --ground: #17181a; --bad: #ff8a80 }
}
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1.5rem; max-width: 62rem; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif }
h1 { font-size: 1.7rem; margin: 0 0 .3rem }
h2 { font-size: 1.35rem; margin: 2.5rem 0 .5rem; border-top: 2px solid var(--line); padding-top: 1rem }
h3 { font-size: 1.08rem; margin: 2rem 0 .5rem }
p, caption, figcaption { max-width: 46rem }
caption, figcaption, dt { color: var(--faint) }
.bad { color: var(--bad); font-weight: 600 }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: .7rem 0 }
dd { margin: 0; overflow-wrap: anywhere }
.wide { overflow-x: auto; margin: .8rem 0 }
table { border-collapse: collapse; font-size: .88rem }
caption { text-align: left; padding-bottom: .3rem }
th, td { padding: .22rem .8rem .22rem 0; text-align: left; vertical-align: baseline;
  border-bottom: 1px solid var(--line) }
.long { overflow-wrap: anywhere; min-width: 14rem }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
figure { margin: 1rem 0 1.6rem }
img { width: 100%; height: auto; display: block; background: #fff; border-radius: 4px }
figcaption { font-size: .9rem; margin-top: .4rem }
summary { cursor: pointer }
@media print {
  :root { --ink: #000; --faint: #555; --line: #ccc; --ground: #fff; --bad: #c1272d }
  body { max-width: none; padding: 0; font-size: 10pt }
  nav { display: none }
  h2, h3, caption { break-after: avoid }
  figure, tr, dl { break-inside: avoid }
  .wide { overflow: visible }
  table { font-size: 7.5pt }
}
""".strip()

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""The page fetches nothing and runs nothing, whatever stands in it."""


LONG = 24
"""Words of more letters may be broken, so that a path or a hash does not make a table wider than the page."""


class Number(NamedTuple):
    """A cell's figure: exactly, for a machine, and as people read it."""

    exact: float | None
    text: str


Cell = str | Number


def milliseconds(value: float | None) -> Number:
    """A cell of milliseconds."""
    return Number(value, ms(value))


def mebibytes(value: float | None) -> Number:
    """A cell of bytes, shown as MiB."""
    return Number(value, mib(value))


def plain(value: float | None, digits: int = 0) -> Number:
    """A cell of a number with so many decimals."""
    return Number(value, NOT_KNOWN if value is None else f"{value:,.{digits}f}")


def figure_cells(found: Mapping[str, float] | None) -> list[Cell]:
    """A cell in ms for each of FIGURES."""
    return [milliseconds(found[name] if found else None) for name in FIGURES]


def page(title: str, facts: Mapping[str, str], sections: Mapping[str, tuple[str, str]]) -> str:
    """The whole document; `sections` are anchor to (heading, content)."""
    links = "".join(f'<li><a href="#{anchor}">{escape(head)}</a></li>' for anchor, (head, _) in sections.items())
    content = "".join(
        f'<section><h2 id="{anchor}">{escape(head)}</h2>\n{body}</section>\n'
        for anchor, (head, body) in sections.items()
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE}\n</style>\n</head>\n<body>\n"
        f"<header><h1>{escape(title)}</h1>\n{facts_list(facts)}</header>\n"
        f"<nav><ul>{links}</ul></nav>\n<main>\n{content}</main>\n</body>\n</html>\n"
    )


def heading(text: str) -> str:
    """Of a part of a section."""
    return f"<h3>{escape(text)}</h3>\n"


def paragraph(text: str, kind: str = "") -> str:
    """One paragraph; `kind` is a class of the style sheet, such as bad."""
    return f"<p{_class(kind)}>{escape(text)}</p>\n"


def facts_list(facts: Mapping[str, str]) -> str:
    """Names and what they are."""
    return f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{escape(fact)}</dd>' for name, fact in facts.items())}</dl>\n"


def table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """A table; columns that hold a number are set right. Columns in which no row holds anything are left out."""
    kept = [column for column in range(len(heads)) if any(_holds(row[column]) for row in rows)]
    if not kept:
        return ""
    figures = {column for column in kept if any(isinstance(row[column], Number) for row in rows)}
    head = "".join(f"<th{_class('number' if n in figures else '')}>{escape(heads[n])}</th>" for n in kept)
    body = "".join(f"<tr>{''.join(_cell(row[n], n in figures) for n in kept)}</tr>\n" for row in rows)
    return (
        f'<div class="wide"><table><caption>{escape(caption)}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>\n"
    )


def figure(plot: Plot | None) -> str:
    """A plot with its caption, itself inside the page; nothing where there is none."""
    if plot is None:
        return ""
    source = f"data:image/png;base64,{b64encode(plot.png).decode()}"
    return (
        f'<figure><img src="{source}" alt="{escape(plot.alt)}">'
        f"<figcaption>{escape(plot.caption)}</figcaption></figure>\n"
    )


def foldable(summary: str, content: str) -> str:
    """Content that can be folded away; open at first, so that it is printed."""
    return f"<details open><summary>{escape(summary)}</summary>\n{content}</details>\n" if content else ""


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def _holds(cell: Cell) -> bool:
    return cell.exact is not None if isinstance(cell, Number) else cell not in ("", NOT_KNOWN)


def _cell(cell: Cell, right: bool) -> str:
    if isinstance(cell, Number):
        exact = "" if cell.exact is None else f' value="{cell.exact!r}"'
        return f'<td class="number"><data{exact}>{escape(cell.text)}</data></td>'
    long = any(len(word) > LONG for word in cell.split())
    return f"<td{_class('number' if right else 'long' if long else '')}>{escape(cell)}</td>"
