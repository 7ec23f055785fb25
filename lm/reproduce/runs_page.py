"""Any runs side by side: what came out, how they went, and in what they differ."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lm.config import Config, differences, to_dict
from lm.errors import ConfigError, UserError
from lm.evaluate import html
from lm.evaluate.html import Html, element
from lm.reproduce.canvas import curves_svg, decimated
from lm.reproduce.record import short_commit

# By metric: a heading, the axis with its unit, and whether it is logarithmic.
_TRAINING = {
    "gradient_norm": ("Gradient norm", "gradient norm", True),
    "learning_rate": ("Learning rate", "learning rate", False),
}
# Evaluations of a run whose samples are shown: more than fits a look says no more.
_MOST_SAMPLES = 12


class RunData(NamedTuple):
    """What a run's folder says of it."""

    name: str
    workdir: Path
    config: Config
    metrics: list[dict[str, Any]]
    timing: list[dict[str, Any]]
    samples: list[dict[str, Any]]
    sessions: list[dict[str, Any]]

    def series(self, split: str, metric: str) -> tuple[list[float], list[float]]:
        rows = self.timing if split == "timing" else self.metrics
        found = [
            (row["step"], row[metric])
            for row in rows
            if row.get("split", "timing") == split and row.get(metric) is not None
        ]
        return ([x for x, _ in found], [y for _, y in found])


def runs_page(workdirs: Sequence[Path]) -> str:
    """The page of these runs, in their order.

    Raises:
      UserError: a folder has no run, or one that took no step.
      ConfigError: two folders are the same.
    """
    runs = _read(workdirs)
    title = (
        runs[0].name if len(runs) == 1 else f"{len(runs)} runs: {', '.join(r.name for r in runs)}"
    )
    return html.page(
        title,
        element("h1", title),
        _results(runs),
        _curves(runs),
        _samples(runs),
        _differences(runs),
        _runs(runs),
    )


def _read(workdirs: Sequence[Path]) -> list[RunData]:
    from lm.train.metrics import SAMPLES, read_jsonl
    from lm.train.workdir import METRICS, read_config, sessions

    paths = [path.absolute() for path in workdirs]
    if len(set(paths)) < len(paths):
        raise ConfigError("a run is named twice")
    names = _names(paths)
    found = []
    for name, workdir in zip(names, workdirs):
        config = read_config(workdir)
        metrics = read_jsonl(workdir / METRICS)
        if not metrics:
            raise UserError(f"{workdir} has nothing in {METRICS}: the run took no step yet")
        timing, samples = (read_jsonl(workdir / kept) for kept in ("timing.jsonl", SAMPLES))
        found.append(RunData(name, workdir, config, metrics, timing, samples, sessions(workdir)))
    return found


def _names(paths: Sequence[Path]) -> list[str]:
    """The folders' names, with as much of their parents' as tells them apart."""
    for parts in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _results(runs: Sequence[RunData]) -> Html:
    """The last of every metric of the splits, and how fast it went."""
    columns: dict[tuple[str, str], str] = {}
    for run in runs:
        for row in run.metrics:
            for metric in row:
                if metric in ("step", "split") or (row["split"] == "train" and metric != "loss"):
                    continue
                columns.setdefault((row["split"], metric), f"{row['split']} {metric}")
    rows = []
    for run in runs:
        cells: list[Any] = [run.name, str(run.metrics[-1]["step"])]
        for split, metric in columns:
            _, values = run.series(split, metric)
            cells.append(values[-1] if values else None)
        _, rates = run.series("timing", "tokens_per_second")
        _, shares = run.series("timing", "mfu_palm")
        cells.append(f"{_median(rates):,.0f}" if rates else None)
        cells.append(f"{100 * _median(shares):.1f} %" if shares else None)
        rows.append(cells)
    head = ["run", "steps", *columns.values(), "tokens/s", "MFU"]
    note = "The last of each metric; throughput and model-FLOPs utilisation are medians."
    numbers = range(1, len(head))
    return Html(
        element("h2", "Results")
        + html.table(head, rows, numbers=numbers)
        + element("p", note, kind="small")
    )


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def _curves(runs: Sequence[RunData]) -> Html:
    parts = [element("h2", "Curves")]
    splits = dict.fromkeys(row["split"] for run in runs for row in run.metrics)
    for split in splits:
        axis = "loss (nats per token)" if _predicts_tokens(runs) else "loss"
        title = "Training loss" if split == "train" else f"Loss on {split}"
        parts.append(_panel(runs, split, "loss", title, axis, False))
    for metric, (title, axis, log) in _TRAINING.items():
        parts.append(_panel(runs, "train", metric, title, axis, log))
    parts.append(
        _panel(runs, "timing", "tokens_per_second", "Throughput", "tokens per second", False)
    )
    return Html("".join(parts))


def _predicts_tokens(runs: Sequence[RunData]) -> bool:
    return all(run.config.objective is None or run.config.objective.predicts_tokens for run in runs)


def _panel(
    runs: Sequence[RunData], split: str, metric: str, title: str, axis: str, log: bool
) -> Html:
    """One figure with a line a run; nothing where no run has this."""
    series = {run.name: run.series(split, metric) for run in runs}
    drawn = {name: decimated(*points) for name, points in series.items() if points[0]}
    if not drawn:
        return Html("")
    svg = curves_svg(
        drawn, title=title, x_label="step (optimiser updates)", y_label=axis, log_y=log
    )
    return html.figure(svg, title)


def _samples(runs: Sequence[RunData]) -> Html:
    """What each run said over its steps: a row an evaluation, a column a prompt."""
    parts = []
    for run in runs:
        if not run.samples:
            continue
        said = {(row["step"], row["prompt"]): row["text"] for row in run.samples}
        prompts = list(dict.fromkeys(row["prompt"] for row in run.samples))
        steps = sorted({row["step"] for row in run.samples})
        shown = _spread(steps, _MOST_SAMPLES)
        rows = [[str(step), *(said.get((step, prompt)) for prompt in prompts)] for step in shown]
        head = ["step", *(prompt or "(after nothing)" for prompt in prompts)]
        columns = range(1, len(head))
        parts += [element("h3", run.name), html.table(head, rows, numbers=(0,), texts=columns)]
        if len(shown) < len(steps):
            words = f"{len(shown)} of {len(steps)} evaluations; samples.jsonl has them all."
            parts.append(element("p", words, kind="small"))
    return Html(element("h2", "Samples over time") + "".join(parts)) if parts else Html("")


def _spread(steps: Sequence[int], most: int) -> list[int]:
    """As many of the steps, evenly, with the first and the last."""
    if len(steps) <= most:
        return list(steps)
    return [steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most)]


def _differences(runs: Sequence[RunData]) -> Html:
    """The keys of the config that are not the same in all runs, a column a run."""
    if len(runs) < 2:
        return Html("")
    trees = [to_dict(run.config) for run in runs]
    keys = dict.fromkeys(key for tree in trees[1:] for key, _, _ in differences(trees[0], tree))
    # A whole section against None is one key; what is below it in others is that section's.
    names = sorted(
        key for key in keys if not any(key.startswith(f"{o}.") for o in keys if o != key)
    )
    if not names:
        return Html(element("h2", "Config") + element("p", "The configs are the same."))
    rows = [[key, *(_shown(_at(tree, key)) for tree in trees)] for key in names]
    return Html(
        element("h2", "What differs in the config")
        + html.table(["key", *(run.name for run in runs)], rows)
    )


_ABSENT = object()


def _at(tree: Mapping[str, Any], key: str) -> Any:
    place: Any = tree
    for name in key.split("."):
        if not isinstance(place, Mapping) or name not in place:
            return _ABSENT
        place = place[name]
    return place


def _shown(value: Any) -> Html:
    return element("code", "–" if value is _ABSENT else repr(value))


def _runs(runs: Sequence[RunData]) -> Html:
    """How each run was started, on what, and its whole config."""
    parts = [element("h2", "Runs")]
    for run in runs:
        parts.append(element("h3", run.name))
        if run.sessions:
            rows = [
                [s.get("started"), str(s.get("from_step", "")), ", ".join(s.get("devices", ())),
                 element("code", short_commit(s.get("git_commit"))),
                 (s.get("versions") or {}).get("jax")]
                for s in run.sessions
            ]  # fmt: skip
            parts.append(html.table(["started", "from step", "devices", "commit", "jax"], rows))
            command = run.sessions[-1].get("command")
            if command:
                parts.append(html.code(shlex.join(["lm", *command[1:]])))
        parts.append(html.details("Config", html.values(to_dict(run.config))))
    return Html("".join(parts))
