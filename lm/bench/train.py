"""Training steps: the whole of `lm train` against its bare step and against torch."""

from __future__ import annotations

from collections.abc import Sequence

from lm.bench import memory, shapes, torch_peers
from lm.bench.harness import Comparison, Contestant
from lm.bench.process import one_device, several_devices, with_flags
from lm.bench.shapes import TrainShape
from lm.bench.suite import PEERS, Finding, Settings, Suite
from lm.config import Config, Learned, to_dict

LOOP = "lm train"
BARE, BARE_ONE = "bare jitted step", "bare jitted step, one device"


def contestants(shape: TrainShape, settings: Settings) -> Sequence[Contestant]:
    """The loop, with one checkpoint written in the middle of the middle round; the same jitted step
    alone, on the loop's devices, and on one where those are a CPU's virtual ones; torch."""
    place, steps, lead = settings.place, shape.round_steps, shape.lead_steps
    middle = steps + settings.rounds // 2 * (lead + steps) + lead + steps // 2
    # A round's steps to warm up; what comes after the last round is never reached.
    total = steps + settings.rounds * (lead + steps)
    config = shape.config(total + steps, middle)
    amount = _amount(shape)
    data = place.data(config)
    workdir = str(place.scratch / "run")
    peers = export(shape, config, settings, total)
    env = with_flags(shape.xla_flags)
    bare = [place.worker(BARE, "ours.loop:BareStep", {**data, **amount}, env)]
    if several_devices():
        one = one_device()
        bare.append(place.worker(BARE_ONE, "ours.loop:BareStep", {**data, **amount}, one))
    loop = place.worker(LOOP, "ours.loop:Loop", {**data, **amount, "workdir": workdir}, env)
    return [loop, *bare, *peers]


def _amount(shape: TrainShape) -> dict[str, int]:
    steps = shape.round_steps
    return {"warmup": steps, "round_steps": steps, "lead": shape.lead_steps}


def export(shape: TrainShape, config: Config, settings: Settings, steps: int) -> list[Contestant]:
    """torch's contestants, with our parameters and `steps` of our batches in files for them."""
    if not settings.peers:
        return []
    place = settings.place
    folder = place.folder("shared")
    own_model = isinstance(config.model.position, Learned)
    place.call(
        "ours.export:Training",
        {**place.data(config), "folder": str(folder), "steps": steps, "convert": not own_model},
    )
    arguments = {
        "model": to_dict(config.model),
        "optimizer": to_dict(shape.adamw),
        "folder": str(folder),
        **_amount(shape),
    }
    return torch_peers.workers(
        settings,
        "peers.torch_train:Train",
        lambda compiled: {**arguments, "compiled": compiled},
        ways=PEERS,
    )


def findings(shape: TrainShape, comparison: Comparison) -> Sequence[Finding]:
    """The loop's cost, the checkpoint's, speed against torch, and whether the losses agree."""
    found = []
    for name in (BARE, BARE_ONE):
        if name in comparison:
            cost = comparison.ratio(LOOP, name).median - 1
            text = f"the whole loop takes {cost:+.1%} over the {name}"
            found.append(Finding(f"loop over {name}", cost, text))
    if len(comparison[LOOP].seconds.values) > 2:
        found.append(_checkpoint(comparison))
    stock = [n for n in ("torch eager", "torch compiled") if n in comparison]
    if stock:
        best = min(stock, key=lambda name: comparison[name].seconds.median)
        ratio = comparison.ratio(best).median
        text = f"lm train is {ratio:.2f}x the better stock torch ({best.removeprefix('torch ')})"
        found.append(Finding("stock torch", ratio, text))
    full = [r.name for r in comparison.results if r.name.endswith("full MKL speed")]
    if full:
        best = min(full, key=lambda name: comparison[name].seconds.median)
        ratio = comparison.ratio(best).median
        found.append(Finding("full MKL", ratio, f"lm train is {ratio:.2f}x {best}"))
    found += memory.findings(comparison, (LOOP, BARE), "torch eager")
    return found if shape.other_optimizer else [*found, *_losses(comparison)]


def _checkpoint(comparison: Comparison) -> Finding:
    """What the round with the checkpoint took more than the others."""
    times = comparison[LOOP].seconds
    units = comparison[LOOP].facts["units"]
    middle = times.values[len(times.values) // 2]
    extra = (middle - times.median) * units
    text = (
        f"round {len(times.values) // 2 + 1} has the checkpoint: {1e3 * extra:+.0f} ms, "
        f"{extra / times.median:+.2f} steps"
    )
    return Finding("checkpoint, steps", extra / times.median, text)


def _losses(comparison: Comparison) -> list[Finding]:
    """The largest difference between our loss and a peer's at the same step."""
    ours = comparison[LOOP].facts["losses"]
    found = []
    for result in comparison.results:
        theirs = result.facts.get("losses")
        if result.name == LOOP or theirs is None:
            continue
        common = sorted(set(ours) & set(theirs), key=int)
        worst = max(common, key=lambda step: abs(ours[step] - theirs[step]))
        gap = abs(ours[worst] - theirs[worst])
        text = (
            f"losses of lm train and {result.name} differ by at most {gap:.1e} "
            f"(step {worst} of {common[-1]}, where ours is {ours[worst]:.4f})"
        )
        found.append(Finding(f"loss difference, {result.name}", gap, text))
    return found


SUITE = Suite(
    name="train",
    summary="training steps, through the whole of lm train",
    unit="step",
    base=LOOP,
    shapes=shapes.TRAIN,
    default="ii",
    peers=PEERS,
    contestants=contestants,
    findings=findings,
)
