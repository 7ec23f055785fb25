"""A suite from its name to its results."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lm.bench import (
    attention,
    checkpoint,
    data,
    decode,
    machine,
    report,
    startup,
    torch_peers,
    train,
)
from lm.bench.harness import Comparison, Facts, Unavailable, compare
from lm.bench.process import one_device
from lm.bench.shapes import named
from lm.bench.suite import PEERS, Finding, Settings, Suite
from lm.bench.workload import Place, place
from lm.errors import ConfigError, UserError, did_you_mean
from lm.host import cores

_MODULES = (train, decode, data, checkpoint, startup, attention)
_PEERS = "the peers"
SUITES: dict[str, Suite] = {module.SUITE.name: module.SUITE for module in _MODULES}


def select(suite: str, shapes: Sequence[str], peers: Sequence[str]) -> tuple[Suite, list[str]]:
    """The suite and its shapes, everything checked.

    Raises:
      ConfigError: no such suite, shape or peer, or a peer twice.
      UserError: peers are named whose packages are missing.
    """
    if suite not in SUITES:
        raise ConfigError(f"--suite={suite}: there is no such suite{did_you_mean(suite, SUITES)}")
    chosen = SUITES[suite]
    names = list(shapes) or [chosen.default]
    for name in names:
        named(chosen.shapes, name)
    for peer in peers:
        if peer not in PEERS:
            raise ConfigError(
                f"--peers={peer}: there is no such peer{did_you_mean(peer, PEERS)}; "
                f"all, none, or some of {', '.join(PEERS)}"
            )
        if list(peers).count(peer) > 1:
            raise ConfigError(f"--peers={','.join(peers)}: {peer} is there twice; name it once")
    # All of them are the default: then those that cannot run are left out.
    absent = torch_peers.missing()
    if absent and tuple(peers) != PEERS and set(peers) & set(chosen.peers):
        raise UserError(f"--peers={','.join(peers)}: {absent}, or --peers=none to measure lm alone")
    return chosen, names


def measure(
    suite: Suite,
    shapes: Sequence[str],
    *,
    rounds: int,
    peers: Sequence[str],
    scratch: Path | None,
    cache: Path,
    note: Callable[[str], None],
) -> Iterator[tuple[str, dict[str, Any]]]:
    """For each shape its table and its record, which has the machine in it.

    Raises:
      UserError: a contestant failed; the message has its last words.
    """
    with place(scratch, cache) as where:
        host = {**machine.description(), **_ceiling(where, note)}
        if host["load_average"][0] > 0.5 * cores():
            note(
                f"note: other processes are running (load {host['load_average'][0]} on "
                f"{cores()} cores): the times are no measurement of a quiet machine"
            )
        known = tuple(p for p in peers if p in suite.peers)
        left_out: dict[str, str] = {}
        if known and (absent := torch_peers.missing()):
            known, left_out = (), {_PEERS: absent}
            note(f"left out: {_PEERS}: {absent}")
        for number, name in enumerate(shapes):
            began = time.time()
            shape = suite.shapes[name]
            # Of its own: the runs, files and logs of a shape are no other's.
            with where.part(f"{number}-{name}") as own:
                comparison = _compare(suite, shape, Settings(rounds, own, known), note)
            comparison.left_out.update(left_out)
            values = report.record(
                suite, name, shape.describe, comparison, _best_product(host, shape),
                shared=host["backend"] == "cpu",
            )  # fmt: skip
            found = _findings(suite, shape, comparison)
            values["findings"] = [finding._asdict() for finding in found]
            values["began"], values["seconds"] = began, time.time() - began
            after = [round(x, 2) for x in os.getloadavg()]
            values["machine"] = {**host, "load_average_after": after}
            yield report.table(values, [finding.text for finding in found]), values


def _compare(
    suite: Suite, shape: Any, settings: Settings, note: Callable[[str], None]
) -> Comparison:
    try:
        contestants = suite.contestants(shape, settings)
        return compare(contestants, rounds=settings.rounds, base=suite.base, note=note)
    except Unavailable as reason:
        # From no contestant's preparation: something that they all need.
        raise UserError(f"--suite={suite.name} cannot run here: {reason}") from reason


def _findings(suite: Suite, shape: Any, comparison: Comparison) -> list[Finding]:
    """What the times come to; without the base, that they come to nothing."""
    if suite.base in comparison:
        return list(suite.findings(shape, comparison))
    reason = comparison.left_out.get(suite.base, "it is no contestant at this shape")
    text = f"no ratios: {suite.base}, which they are to, did not run: {reason}"
    return [Finding("no ratios", None, text)]


def _ceiling(where: Place, note: Callable[[str], None]) -> Facts:
    note("measuring the machine's matrix products")
    return where.call("machine:Ceiling", {}, one_device())


def _best_product(host: Facts, shape: Any) -> float | None:
    """FLOP/s of one chip, or of a whole CPU, where the products were of the type that the shape's
    model computes in."""
    if shape.model().compute_dtype != host["dtype"]:
        return None
    return max(host["matmul_flops"].values())
