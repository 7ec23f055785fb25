"""REPRODUCTIONS.md: every claim of every paper with its newest verdict, made from the records."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lm.evaluate.html import number
from lm.reproduce.claims import Paper, Scale
from lm.reproduce.page import LOOKS, duration, ours
from lm.reproduce.record import (
    PAGE,
    commands,
    current,
    judge_all,
    read_record,
    short_commit,
)

_HEAD = """# Reproductions

Claims of papers, checked by running them. Written by `lm reproduce --all`, from the records beside
each paper's `claims.py`: an edit here is lost. What failed stays, and what was not run is listed.

Verdicts: *reproduced* if what was measured lies in the band that was fixed before (from three seeds
on, the 95 % interval of the mean; with fewer, the mean), *not reproduced* outside of it,
*inconclusive* if the interval crosses its edge. *Proxy* marks what stands for the paper's own
experiment at a smaller scale.
"""


class Entry(NamedTuple):
    """One paper of the ledger, and the folder its report is in."""

    folder: Path
    report: Path
    paper: Paper


def ledger(entries: Sequence[Entry], scale: Scale, root: Path) -> str:
    """The ledger of these papers; links are relative to `root`, commands for the current
    directory."""
    sections, counts = [], dict.fromkeys(LOOKS, 0)
    for entry in entries:
        record = current(entry.paper, read_record(entry.report))
        claims = judge_all(entry.paper, record, scale)
        for claim in claims:
            counts[claim["verdict"]] += 1
        sections.append(_section(entry, claims, root, linked=bool(record["measures"])))
    total = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    return "\n".join([_HEAD, f"{sum(counts.values())} claims: {total}.", "", *sections])


def _section(entry: Entry, claims: Sequence[Mapping[str, Any]], root: Path, *, linked: bool) -> str:
    lines = [f"## {_cell(entry.paper.title)}", "", _cell(entry.paper.reference)]
    command = ", ".join(f"`{line}`" for line in commands(entry.paper, entry.folder))
    # Of what was never run there is nothing to look at.
    place = Path(os.path.relpath(entry.report / PAGE, root)).as_posix()
    page = f"[report](<{place}>), " if " " in place else f"[report]({place}), "
    lines += ["", f"{page if linked else ''}{command}", ""]
    head = (
        "claim",
        "published",
        "ours",
        "agrees if",
        "verdict",
        "scale",
        "date",
        "cost",
        "on",
        "commit",
    )
    lines += [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += [f"| {' | '.join(_cell(value) for value in _row(claim))} |" for claim in claims]
    return "\n".join([*lines, ""])


def _row(claim: Mapping[str, Any]) -> list[str]:
    proxy = f" Proxy: {claim['proxy']}" if claim["proxy"] else ""
    count = len(claim["values"])
    values = f"{ours(claim)}{f' ({count} seeds)' if count > 1 else ''}"
    verdict = claim["verdict"]
    return [
        f"**{claim['id']}** {claim['sentence']} ({claim['where']}){proxy}",
        f"{number(claim['published'])} {claim['unit']}".strip(),
        values,
        claim["check"],
        f"**{verdict}**" if verdict in ("reproduced", "not reproduced") else verdict,
        claim["scale"],
        claim.get("date", "–"),
        duration(claim.get("seconds")),
        claim.get("hardware", "–"),
        short_commit(claim.get("commit")),
    ]


def _cell(value: str) -> str:
    """Text that ends no cell and begins no markup of its own."""
    return " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;")
