"""Pages that open from disk, print, and can be mailed: one file, nothing loaded, no scripts.

Colours follow the reader's light or dark setting, on paper light. What is put into a page is
escaped unless it is `Html`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

_LIGHT = """color-scheme: light; --paper: #fff; --ink: #1c1c1c; --quiet: #4a4a4a; --line: #ccc;
  --shade: #f3f3f0; --accent: #1f5fa8; --second: #b3541a; --good: #1c6b3a; --bad: #a3211a;"""
_DARK = """color-scheme: dark; --paper: #15181b; --ink: #e9e9e6; --quiet: #b4b4b0; --line: #4a4f54;
  --shade: #22272b; --accent: #7db3ec; --second: #eda06a; --good: #7fcf9c; --bad: #f2958c;"""
_STYLE = f"""
:root {{ {_LIGHT} }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}
body {{ margin: 0 auto; max-width: 62rem; padding: 1.5rem 1.25rem 4rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }}
h1 {{ font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.25rem; margin: 2.4rem 0 .6rem; border-bottom: 1px solid var(--line); }}
h3 {{ font-size: 1rem; margin: 1.6rem 0 .4rem; }}
p {{ max-width: 46rem; }}
.lead {{ font-size: 1.15rem; }}
.small, figcaption, caption {{ font-size: .88rem; color: var(--quiet); }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: .9rem; }}
table.wide {{ width: 100%; }}
caption {{ text-align: left; padding: .2rem 0; }}
th, td {{ text-align: left; vertical-align: top; padding: .35rem .9rem .35rem 0; }}
th {{ border-bottom: 2px solid var(--line); }}
td {{ border-bottom: 1px solid var(--line); overflow-wrap: break-word; }}
td.number, th.number {{ text-align: right; font-variant-numeric: tabular-nums;
  white-space: nowrap; }}
td.text {{ min-width: 12rem; white-space: pre-line; }}
pre, code {{ font: .84rem/1.45 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }}
pre {{ background: var(--shade); padding: .7rem .9rem; white-space: pre-wrap;
  overflow-wrap: anywhere; }}
figure {{ margin: 1.2rem 0; break-inside: avoid; }}
figure svg {{ max-width: 100%; height: auto; }}
mark {{ background: none; color: var(--good); font-weight: 600; text-decoration: underline; }}
.badge {{ display: inline-block; padding: .05rem .5rem; border: 2px solid; border-radius: 1rem;
  font-weight: 600; white-space: nowrap; }}
.yes {{ color: var(--good); }} .no {{ color: var(--bad); }} .unsure {{ color: var(--second); }}
.open {{ color: var(--quiet); border-style: dashed; }}
details {{ margin: .5rem 0; }} summary {{ cursor: pointer; }}
svg text {{ font: 13px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  fill: var(--ink); }}
svg .quiet {{ fill: var(--quiet); }} svg .strong {{ font-weight: 600; }}
svg .axis {{ stroke: var(--quiet); fill: none; }} svg .grid {{ stroke: var(--line); fill: none; }}
svg .fill {{ fill: var(--accent); }} svg .dot {{ fill: var(--accent); fill-opacity: .55; }}
svg .curve {{ stroke: var(--accent); fill: none; stroke-width: 2; }}
svg .ideal {{ stroke: var(--second); fill: none; stroke-width: 1.5; stroke-dasharray: 6 4; }}
@media print {{
  body {{ max-width: none; padding: 0; font-size: 10pt; }}
  details::details-content {{ content-visibility: visible; display: block; }}
  .scroll {{ overflow: visible; }} tr, figure {{ break-inside: avoid; }}
  h2, h3 {{ break-after: avoid; }}
  svg .fill, svg .dot {{ print-color-adjust: exact; -webkit-print-color-adjust: exact; }}
}}
"""


class Html(str):
    """Markup that is what it should be; any other text is escaped where it is put."""


def text(value: Any) -> Html:
    """`value` as it stands in a page: markup as it is, numbers in four digits, texts escaped."""
    if isinstance(value, Html):
        return value
    if value is None:
        return Html("–")
    return Html(escape(number(value) if isinstance(value, float) else str(value), quote=True))


def number(value: float | int | None) -> str:
    """A measured number in four digits; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.3g}"
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"


def element(name: str, *parts: Any, **attributes: str) -> Html:
    """<name attributes>parts</name>; an attribute `kind` is written as class, and _ in a name as a
    hyphen."""
    given = "".join(
        f' {"class" if key == "kind" else key.replace("_", "-")}="{escape(value, quote=True)}"'
        for key, value in attributes.items()
    )
    return Html(f"<{name}{given}>{''.join(map(text, parts))}</{name}>")


def table(
    head: Sequence[Any],
    rows: Iterable[Sequence[Any]],
    *,
    caption: str = "",
    numbers: Iterable[int] = (),
    texts: Iterable[int] = (),
) -> Html:
    """A table; columns in `numbers` are set to the right, those in `texts` are running text, with
    line breaks as they are."""
    kinds = {**dict.fromkeys(numbers, "number"), **dict.fromkeys(texts, "text")}

    def cells(tag: str, values: Sequence[Any]) -> Html:
        found = (
            element(tag, value, **({"kind": kinds[place]} if place in kinds else {}))
            for place, value in enumerate(values)
        )
        return element("tr", *found)

    title = element("caption", caption) if caption else Html("")
    inner = element(
        "table", title, element("thead", cells("th", head)),
        element("tbody", *(cells("td", row) for row in rows)),
        kind="wide" if "text" in kinds.values() else "plain",
    )  # fmt: skip
    return element("div", inner, kind="scroll")


def figure(svg: str, caption: str) -> Html:
    """A drawing, and what it shows."""
    return element("figure", Html(svg), element("figcaption", caption))


def details(title: str, *parts: Any) -> Html:
    """What is folded away, but on paper."""
    return element("details", element("summary", title), *parts)


def code(lines: str) -> Html:
    return element("pre", element("code", lines))


def values(value: Any) -> Html:
    """Nested values, readable."""
    return code(json.dumps(value, indent=2, ensure_ascii=False))


def page(title: str, *parts: Any) -> str:
    """A whole page."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(map(text, parts))
        + "\n</main>\n</body>\n</html>\n"
    )
