"""The parametric scaling law L(N, D) = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022,
section 3.3), fitted to points: published ones, or those of runs of ours."""

from __future__ import annotations

import csv
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from lm.config.checks import at_least, check, positive
from lm.errors import UserError
from lm.reproduce.measures.base import Found, Inputs, MeasureBase, digest_of
from lm.reproduce.measures.training import series

NAMES = ("E", "A", "B", "alpha", "beta")
# Hoffmann et al.'s grid of starting points: log A, log B, log E, alpha, beta.
_GRID = ((0, 5, 10, 15, 20, 25), (0, 5, 10, 15, 20, 25), (-1, -0.5, 0, 0.5, 1)) + 2 * (
    (0, 0.5, 1, 1.5, 2),
)


class Law(NamedTuple):
    """E + A / N^alpha + B / D^beta."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def loss(self, parameters: Any, tokens: Any) -> Any:
        """In nats, for models of so many parameters trained on so many tokens."""
        return self.E + self.A / parameters**self.alpha + self.B / tokens**self.beta


@dataclass(frozen=True)
class ScalingPoints(MeasureBase):
    """The law fitted to the points of a CSV with columns "Model Size", "Training FLOP" and "loss",
    tokens being FLOP / 6 N.

    The `drop` points of the fewest tokens a parameter are left out (Besiroglu et al. 2024 drop 5,
    which are outliers). `bootstrap` fits to points drawn anew say how sure the numbers are.
    """

    path: str = ""
    drop: int = 0
    bootstrap: int = 0
    delta: float = 1e-3
    kind: Literal["scaling_points"] = "scaling_points"

    def __post_init__(self) -> None:
        check(bool(self.path), "scaling_points needs path, a .csv below the data root")
        at_least(self, 0, "drop", "bootstrap")
        positive(self, "delta")

    @property
    def quantities(self) -> tuple[str, ...]:
        return NAMES

    def files(self) -> tuple[str, ...]:
        return (self.path,)

    def measure(self, inputs: Inputs) -> Found:
        path = inputs.data_root / self.path
        points = read_points(path)
        order = np.argsort(points[:, 1] / points[:, 0])
        kept = points[np.sort(order[self.drop :])]
        law, spread = fit(kept, self.delta), {}
        if self.bootstrap:
            generator = np.random.default_rng(0)
            drawn = [
                kept[generator.integers(len(kept), size=len(kept))] for _ in range(self.bootstrap)
            ]
            laws = np.array([fit(sample, self.delta, start=law) for sample in drawn])
            spread = dict(zip(NAMES, np.std(laws, axis=0, ddof=1).tolist()))
        details = {
            "law": law._asdict(),
            "standard_error": spread,
            "points": np.round(kept, 6).tolist(),
            "file": {"path": self.path, "sha256": digest_of([path])[0]},
        }
        words = f"{len(kept)} of {len(points)} points, Huber loss with delta {self.delta:g}, summed"
        return Found({name: [value] for name, value in law._asdict().items()}, details, (words,))


@dataclass(frozen=True)
class ScalingRuns(MeasureBase):
    """The law fitted to runs of ours: each one's parameters, tokens seen and last loss of `split`.
    Of several seeds the mean."""

    split: str = "text"
    delta: float = 1e-3
    kind: Literal["scaling_runs"] = "scaling_runs"

    def __post_init__(self) -> None:
        # As many as the law has numbers, and then some.
        check(len(self.runs) > len(NAMES), f"a law of {len(NAMES)} numbers needs more runs")
        positive(self, "delta")

    @property
    def quantities(self) -> tuple[str, ...]:
        return NAMES

    def measure(self, inputs: Inputs) -> Found:
        points = np.array([self._point(workdirs) for workdirs in inputs.runs.values()])
        law = fit(points, self.delta)
        details = {"law": law._asdict(), "points": points.tolist(), "names": list(inputs.runs)}
        return Found({name: [value] for name, value in law._asdict().items()}, details)

    def _point(self, workdirs: Any) -> tuple[float, float, float]:
        from lm.train.workdir import read_config

        config = read_config(workdirs[0])
        ends = [series(workdir, self.split, "loss")[-1] for workdir in workdirs]
        rows = ends[0][0] * config.train.batch_size
        loss = float(np.mean([value for _, value in ends]))
        return parameters_of(config.model), float(rows * config.data.sequence_length), loss


def parameters_of(model: Any) -> int:
    """How many parameters a decoder or encoder of this config has."""
    import jax
    import jax.numpy as jnp

    from lm.model import build_model

    tokens = jnp.zeros((1, 4), jnp.int32)
    shapes = jax.eval_shape(build_model(model).init, jax.random.key(0), tokens)
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))


def read_points(path: Path) -> Float[np.ndarray, "n 3"]:
    """Parameters, tokens and loss of every line.

    Raises:
      UserError: the file is missing, or not such a CSV.
    """
    digest_of([path])  # says what is wrong where it cannot be read
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    try:
        numbers = [
            [float(row[name]) for name in ("Model Size", "Training FLOP", "loss")] for row in rows
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is not a CSV of numbers with columns Model Size, Training FLOP, loss: {error}"
        ) from None
    if not numbers:
        raise UserError(f"{path} has no lines")
    table = np.array(numbers)
    return np.stack([table[:, 0], table[:, 1] / (6 * table[:, 0]), table[:, 2]], axis=1)


def fit(
    points: Float[np.ndarray, "n 3"],
    delta: float = 1e-3,
    *,
    start: Law | None = None,
    descents: int = 30,
) -> Law:
    """The law of least Huber loss between logarithms, summed over the points.

    BFGS from the best `descents` points of Hoffmann et al.'s grid, or from `start`.
    """
    from scipy.optimize import minimize

    sizes, tokens, losses = np.log(points).T

    def objective(theta: Any) -> tuple[float, Any]:
        a, b, e, alpha, beta = theta
        parts = np.stack([a - alpha * sizes, b - beta * tokens, np.full(len(sizes), e)])
        top = parts.max(axis=0)
        shares = np.exp(parts - top)
        total = shares.sum(axis=0)
        residual = top + np.log(total) - losses
        near = np.abs(residual) <= delta
        huber = np.where(near, residual**2 / 2, delta * (np.abs(residual) - delta / 2))
        shares /= total
        slope = np.clip(residual, -delta, delta)
        weighted = shares * slope
        sums = weighted.sum(axis=1)
        gradient = [*sums, -(weighted[0] @ sizes), -(weighted[1] @ tokens)]
        # In units of delta, so that the tolerance of the gradient means the same for any.
        return float(huber.sum()) / delta, np.array(gradient) / delta

    if start is None:
        grid = sorted(itertools.product(*_GRID), key=lambda theta: objective(theta)[0])
        starts = [np.array(theta, np.float64) for theta in grid[:descents]]
    else:
        logs = np.log([start.A, start.B, start.E])
        starts = [np.array([*logs, start.alpha, start.beta])]
    found = [minimize(objective, theta, jac=True, method="BFGS") for theta in starts]
    a, b, e, alpha, beta = min(found, key=lambda result: float(result.fun)).x.tolist()
    return Law(float(np.exp(e)), float(np.exp(a)), float(np.exp(b)), alpha, beta)
