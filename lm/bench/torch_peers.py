"""The processes of torch's contestants: its ways to run, and what has to be installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

from lm.bench.harness import Contestant, Unavailable
from lm.bench.mkl import full_speed
from lm.bench.suite import Absent, Settings

_SUFFIX = "-mkl"


def missing() -> str | None:
    """What the peers need and this Python does not have, and how to get it; None: it has all."""
    absent = [name for name in ("torch", "transformers") if not importlib.util.find_spec(name)]
    if not absent:
        return None
    return (
        f"they need {' and '.join(absent)}, which this Python does not have: "
        "pip install 'lm[bench]'"
    )


def title(peer: str) -> str:
    """A peer's name in tables: "torch eager, full MKL speed"."""
    way = peer.removesuffix(_SUFFIX)
    return f"torch {way}, full MKL speed" if peer.endswith(_SUFFIX) else f"torch {way}"


def workers(
    settings: Settings,
    target: str,
    arguments: Callable[[bool], dict[str, Any]],
    *,
    ways: tuple[str, ...],
    name: Callable[[str], str] = title,
) -> list[Contestant]:
    """One contestant for each peer that is asked for and among `ways`.

    Args:
      arguments: of `target`, by whether it is compiled.
      name: of the contestant, by the peer's.
    """
    found: list[Contestant] = []
    for peer in settings.peers:
        if peer not in ways:
            continue
        env = None
        if peer.endswith(_SUFFIX):
            try:
                env = full_speed(settings.place.folder(peer))
            except Unavailable as reason:
                found.append(Absent(name(peer), str(reason)))
                continue
        values = arguments(peer.startswith("compiled"))
        found.append(settings.place.worker(name(peer), target, values, env))
    return found
