"""Greedy decoding against `transformers.generate`: the same weights, the same tokens out."""

from __future__ import annotations

import random
from collections.abc import Sequence

from lm.bench import shapes, torch_peers
from lm.bench.harness import Comparison, Contestant, Facts
from lm.bench.shapes import DecodeShape
from lm.bench.suite import Finding, Settings, Suite
from lm.config import to_dict

OURS = "lm generate"
WAYS = ("eager", "eager-mkl")


def contestants(shape: DecodeShape, settings: Settings) -> Sequence[Contestant]:
    """Ours and transformers', on weights that are converted through `lm.convert`."""
    place, model = settings.place, shape.model()
    folder = place.folder("shared")
    numbers = random.Random(0)
    prompts = [
        [numbers.randrange(model.vocab_size) for _ in range(shape.prompt_tokens)]
        for _ in range(shape.rows)
    ]
    values = {"folder": str(folder), "prompts": prompts, "new_tokens": shape.new_tokens}
    place.call("ours.export:Model", {"model": to_dict(model), "folder": str(folder)})
    ours = place.worker(OURS, "ours.decoding:Decode", {"model": to_dict(model), **values})
    theirs = torch_peers.workers(
        settings,
        "peers.torch_decode:Decode",
        lambda compiled: values,
        ways=WAYS,
        name=lambda peer: torch_peers.title(peer).replace("torch eager", "transformers.generate"),
    )
    return [ours, *theirs]


def findings(shape: DecodeShape, comparison: Comparison) -> Sequence[Finding]:
    """Whether the tokens are the same, how many different ones there were, and how nearly the
    others were chosen too: once a row says another token it goes on differently."""
    ours = comparison[OURS].facts
    distinct = len({token for row in ours["tokens"] for token in row})
    found = []
    for result in comparison.results:
        if result.name == OURS:
            continue
        pairs = [
            (a, b)
            for row, other in zip(ours["tokens"], result.facts["tokens"])
            for a, b in zip(row, other)
        ]
        same = sum(a == b for a, b in pairs)
        text = (
            f"{same} of {len(pairs)} tokens are those of {result.name} ({distinct} different ones)"
        )
        found.append(Finding(f"same tokens, {result.name}", same / len(pairs), text))
        if same < len(pairs):
            found.append(_parting(result.name, ours, result.facts["tokens"]))
    return found


def _parting(name: str, ours: Facts, theirs: Sequence[Sequence[int]]) -> Finding:
    """How far apart the logits were where rows first say another token."""
    gaps = []
    for row, tokens in enumerate(theirs):
        differ = [i for i, (a, b) in enumerate(zip(ours["tokens"][row], tokens)) if a != b]
        if differ:
            first = differ[0]
            known = ours["runners_up"][row][first] == tokens[first]
            gaps.append(ours["margins"][row][first] if known else float("inf"))
    rows = "1 row parts" if len(gaps) == 1 else f"{len(gaps)} rows part"
    apart = (
        f"where the two likeliest tokens' logits are at most {max(gaps):.1g} apart "
        f"(rounding: with and without a cache, ours are up to {ours['rounding']:.1g} apart)"
        if max(gaps) < float("inf")
        else "at a token that was not even the second likeliest"
    )
    value = max(gaps) if max(gaps) < float("inf") else None
    return Finding(f"gap where tokens part, {name}", value, f"{rows} from {name} {apart}")


SUITE = Suite(
    name="decode",
    summary="greedy decoding against transformers.generate",
    unit="token",
    base=OURS,
    shapes=shapes.DECODE,
    default="6x384-b1",
    peers=WAYS,
    contestants=contestants,
    findings=findings,
)
