"""What training takes in memory, measured the same way of every process."""

from __future__ import annotations

from collections.abc import Sequence

from lm.bench.harness import Comparison
from lm.bench.suite import Finding


def findings(comparison: Comparison, ours: Sequence[str], theirs: str) -> list[Finding]:
    """The most that a process held while it trained: all of it, and what is above its imports, each
    as a share of `theirs`. None on an accelerator, whose memory is not the process's."""
    if theirs not in comparison:
        return []
    found = []
    for name in ours:
        if name not in comparison:
            continue
        both = [comparison[n].facts for n in (name, theirs)]
        if any("memory_of_imports" not in f or "peak_device_memory" in f for f in both):
            continue
        (whole, above), (their_whole, their_above) = [
            (f["peak_memory_rounds"], f["peak_memory_rounds"] - f["memory_of_imports"])
            for f in both
        ]
        for what, mine, other in (
            ("", whole, their_whole),
            (" above the imports", above, their_above),
        ):
            text = (
                f"{name} held at most {_mib(mine)}{what}, {mine / other:.2f} of {theirs}'s "
                f"{_mib(other)}"
            )
            found.append(Finding(f"memory{what}, {name}", mine / other, text))
    return found


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
