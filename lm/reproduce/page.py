"""The report of a paper: verdicts first, then figures, then how to get to each number oneself.

A page is a function of the paper's claims and the record alone: made anew it is the same, byte for
byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lm.config import Config, differences, from_dict
from lm.errors import ConfigError
from lm.evaluate import html
from lm.evaluate.html import Html, element
from lm.reproduce.cell import config_digest
from lm.reproduce.claims import Paper
from lm.reproduce.figures import draw
from lm.reproduce.record import cells_of, command, commands, short_commit

# How each verdict looks: a word, in a colour that is never alone.
LOOKS = {
    "reproduced": "yes",
    "not reproduced": "no",
    "inconclusive": "unsure",
    "reported": "open",
    "not run at this scale": "open",
    "not run yet": "open",
}


def paper_page(folder: Path, paper: Paper, record: Mapping[str, Any]) -> str:
    """The page of a judged record."""
    claims = record["claims"]
    counts = {verdict: sum(c["verdict"] == verdict for c in claims) for verdict in LOOKS}
    said = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    return html.page(
        f"{paper.title}: {said}",
        element("h1", paper.title),
        element("p", paper.reference, kind="small"),
        element("p", element("strong", said), ". ", paper.summary),
        _verdicts(claims),
        _figures(paper, record),
        _examples(record),
        _deviations(paper),
        _reruns(folder, paper, record),
        _costs(record),
        _environment(record),
    )


def duration(seconds: float | None) -> str:
    """Seconds as people say them."""
    if seconds is None:
        return "–"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def badge(verdict: str) -> Html:
    return element("span", verdict, kind=f"badge {LOOKS[verdict]}")


def ours(claim: Mapping[str, Any]) -> str:
    """The measured number with its uncertainty."""
    if claim["mean"] is None:
        return "none" if claim["values"] else "–"
    mean = html.number(claim["mean"])
    if claim["interval"] is not None:
        low, high = claim["interval"]
        return f"{mean} [{html.number(low)}, {html.number(high)}]"
    return mean


def seeds(claim: Mapping[str, Any]) -> str:
    """How many numbers stand behind a verdict."""
    count = len(claim["values"])
    if count == 0:
        return "–"
    if count == 1:
        return "1 run"
    return f"{count}: " + ", ".join(html.number(value) for value in claim["values"])


def _verdicts(claims: list[Mapping[str, Any]]) -> Html:
    rows = []
    for claim in claims:
        sentence = [element("strong", claim["id"]), " ", claim["sentence"]]
        if claim["proxy"]:
            sentence += [" ", element("em", f"Proxy: {claim['proxy']}")]
        beside = claim["where"] + (f"; the band: {claim['why']}" if claim["why"] else "")
        sentence += ["\n", element("span", beside, kind="small")]
        mean, *interval = ours(claim).split(" ", 1)
        rows.append(
            [
                badge(claim["verdict"]),
                Html("".join(map(html.text, sentence))),
                claim["published"],
                Html(html.text(mean) + "".join(f"<br>{html.text(part)}" for part in interval)),
                claim["unit"],
                claim["check"],
                seeds(claim),
                claim["scale"],
            ]
        )
    head = ["verdict", "claim", "published", "ours", "unit", "agrees if", "seeds", "scale"]
    words = "Ours: the mean over seeds; in brackets, from three seeds on, its 95 % interval."
    return Html(
        element("h2", "Verdicts")
        + html.table(head, rows, numbers=(2, 3), texts=(1,))
        + element("p", words, kind="small")
    )


def _figures(paper: Paper, record: Mapping[str, Any]) -> Html:
    parts = []
    for figure in paper.figures.values():
        measured = record["measures"].get(figure.measure)
        drawn = draw(figure, measured)
        caption = f"{figure.title}. {figure.message}".strip()
        if drawn is None:
            parts.append(element("p", f"{figure.title}: nothing measured yet.", kind="small"))
        else:
            note = (
                "" if measured is not None else " Nothing of ours yet: the published points alone."
            )
            parts.append(html.figure(drawn, caption + note))
            parts.append(_numbers(figure.measure, measured))
    return Html(element("h2", "Figures") + "".join(parts)) if parts else Html("")


def _numbers(name: str, measured: Mapping[str, Any] | None) -> Html:
    """What a figure shows, as a table."""
    if measured is None:
        return Html("")
    errors = measured["details"].get("standard_error") or {}
    rows = [
        [quantity, ", ".join(html.number(v) for v in values), errors.get(quantity)]
        for quantity, values in measured["quantities"].items()
    ]
    head = ["quantity", "each seed", "standard error (bootstrap)"]
    if not errors:
        head, rows = head[:2], [row[:2] for row in rows]
    notes = [element("p", note, kind="small") for note in measured["notes"]]
    return html.details(f"Numbers of {name}", html.table(head, rows, numbers=(1, 2)), *notes)


def _examples(record: Mapping[str, Any]) -> Html:
    """What a model said, where a measure kept some."""
    parts = []
    for measured in record["measures"].values():
        examples = measured["details"].get("examples")
        if examples:
            head = list(examples[0])
            parts.append(html.table(head, [[row[name] for name in head] for row in examples]))
    return Html(element("h2", "Examples, not chosen") + "".join(parts)) if parts else Html("")


def _deviations(paper: Paper) -> Html:
    if not paper.deviations:
        return Html("")
    items = Html("".join(element("li", line) for line in paper.deviations))
    return Html(element("h2", "Otherwise than in the paper") + element("ul", items))


def _reruns(folder: Path, paper: Paper, record: Mapping[str, Any]) -> Html:
    """The commands and configs behind every number."""
    parts = [
        element("p", "All of it, from the root of the source. What is recorded is not run again: "
                     "for a second record beside this one add --output=NEW --workdir=NEW. Data is "
                     "read below --data_root, else $LM_DATA."),
        html.code("\n".join(commands(paper, folder))),
        element("p", "A run alone is a command below; lm inspect --workdir=W prints its config "
                     "digest and that of its trained state. With the same versions, on as many "
                     "cores and devices, the state is the same bit for bit; on others it is the "
                     "same to rounding."),
    ]  # fmt: skip
    shown: set[str] = set()
    for measure, measured in record["measures"].items():
        cells = [cell for cell in measured["cells"] if cell["name"] not in shown]
        shown |= {cell["name"] for cell in cells}
        if not cells:
            continue
        parts.append(element("h3", f"Runs of {measure}"))
        head = ["run", "config digest", "trained state (SHA-256)", "data", "cores", "commit"]
        rows = [
            [
                cell["name"],
                element("code", _config_digest(cell)),
                *(element("code", (cell[key] or "–")[:16]) for key in ("state_digest", "data")),
                str(cell.get("cores") or "–"),
                element("code", short_commit(cell["commit"])),
            ]
            for cell in cells
        ]
        parts.append(html.table(head, rows))
        parts.append(html.code("\n".join(cell["command"] for cell in cells)))
        first, *others = cells
        parts.append(html.details(f"Config of {first['name']}", html.values(first["config"])))
        changed = [
            [other["name"], element("code", key), element("code", repr(value))]
            for other in others
            for key, _, value in differences(first["config"], other["config"])
        ]
        if changed:
            title = "What the configs of the others have instead"
            parts.append(html.details(title, html.table(["run", "key", "value"], changed)))
    missing = [runs for runs in paper.runs if not any(c.startswith(f"{runs}-seed") for c in shown)]
    if missing:
        parts.append(element("h3", "Not run"))
        rows = [
            [run, element("code", command(cells_of(run, paper.runs[run])[0])), paper.runs[run].cost]
            for run in missing
        ]
        parts.append(html.table(["run", "command", "cost"], rows))
    return Html(element("h2", "Run it yourself") + "".join(parts))


def _config_digest(cell: Mapping[str, Any]) -> str:
    """Of the recorded config as it is read now: a field that is new since then has its default."""
    try:
        return config_digest(from_dict(Config, cell["config"]))
    except ConfigError:
        return f"{cell['config_digest']} (then)"


def _costs(record: Mapping[str, Any]) -> Html:
    rows = []
    for name, measured in record["measures"].items():
        for cell in measured["cells"]:
            rows.append([f"{name}: {cell['name']}", duration(cell["seconds"])])
        rows.append([f"{name}, in all", duration(measured["seconds"])])
    if not rows:
        return Html("")
    return Html(element("h2", "Costs") + html.table(["what", "wall time"], rows, numbers=(1,)))


def _environment(record: Mapping[str, Any]) -> Html:
    rows = []
    for name, measured in record["measures"].items():
        versions = ", ".join(f"{key} {value}" for key, value in measured["versions"].items())
        rows.append([name, measured["date"], measured["hardware"],
                     element("code", (measured["commit"] or "none")), versions])  # fmt: skip
    if not rows:
        return Html("")
    head = ["measure", "date", "hardware", "commit", "versions"]
    return Html(element("h2", "Environment") + html.table(head, rows))
