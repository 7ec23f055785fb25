"""A suite that only makes folders, at several shapes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lm.bench import run, workload
from lm.bench.harness import Unavailable
from lm.bench.suite import PEERS, Settings, Suite
from lm.bench.workload import Place
from lm.errors import UserError


@dataclasses.dataclass
class Run:
    """A contestant that wants a new folder, as a training run does."""

    place: Place
    name: str = "a run"
    reason: str = ""

    def prepare(self) -> dict[str, Any]:
        if self.reason:
            raise Unavailable(self.reason)
        (self.place.scratch / self.name).mkdir()
        self.place.log(self.name).touch(exist_ok=False)
        return {"flops_per_unit": {"palm": 3.0}, "devices": 2}

    def round(self) -> float:
        return 2.0

    def finish(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        """There is nothing."""


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Measures shapes on a machine whose best product, of float32, is known."""
    return _measured(tmp_path, monkeypatch)


def _measured(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    backend: str = "cpu",
    peers: tuple[str, ...] = (),
    reason: str = "",
):
    monkeypatch.setattr(workload, "_write_text", lambda folder: None)
    ceiling = {"backend": backend, "dtype": "float32", "matmul_flops": {"1": 10.0, "2": 15.0}}
    monkeypatch.setattr(run, "_ceiling", lambda where, note: ceiling)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    places: list[Path] = []

    def contestants(shape: Any, settings: Settings) -> Sequence[Run]:
        [own] = scratch.glob("lm-bench-*/*")
        assert settings.place.scratch == own
        places.append(own)
        assert not settings.peers
        return [Run(settings.place, reason=reason), Run(settings.place, "another run")]

    def shape(dtype: Any) -> SimpleNamespace:
        return SimpleNamespace(describe=dtype, model=lambda: SimpleNamespace(compute_dtype=dtype))

    shapes = {name: shape(name) for name in ("float32", "bfloat16")}
    suite = Suite(
        name="folders", summary="", unit="folder", base="a run", shapes=shapes, default="float32",
        peers=peers, contestants=contestants, findings=lambda shape, comparison: [],
    )  # fmt: skip

    def measure(*names: str) -> tuple[list[dict[str, Any]], list[Path]]:
        tables = run.measure(
            suite, names, rounds=1, peers=peers, scratch=scratch, cache=tmp_path / "cache",
            note=lambda text: None,
        )  # fmt: skip
        records = [{**values, "table": table} for table, values in tables]
        assert not list(scratch.iterdir())
        return records, places

    return measure


def test_every_shape_has_a_place_of_its_own(measured) -> None:
    records, places = measured("float32", "bfloat16", "float32")
    assert [values["shape"] for values in records] == ["float32", "bfloat16", "float32"]
    assert [path.name for path in places] == ["0-float32", "1-bfloat16", "2-float32"]


def test_utilisation_is_of_products_in_the_type_that_is_computed_in(measured) -> None:
    (same, other), _ = measured("float32", "bfloat16")
    assert same["contestants"][0]["mfu_palm"] == pytest.approx(3 / 2 / 15)
    assert "mfu_palm" not in other["contestants"][0]


def test_a_chip_more_is_more_to_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best product is one chip's; a CPU's, which its virtual devices share, is the whole's."""
    [values], _ = _measured(tmp_path, monkeypatch, backend="tpu")("float32")
    assert values["contestants"][0]["mfu_palm"] == pytest.approx(3 / 2 / 15 / 2)


def test_a_base_that_cannot_run_leaves_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [values], _ = _measured(tmp_path, monkeypatch, reason="no such chip")("float32")
    assert [contestant["name"] for contestant in values["contestants"]] == ["another run"]
    assert values["left_out"] == {"a run": "no such chip"}
    assert "no ratios: a run, which they are to, did not run: no such chip" in values["table"]


def test_peers_that_are_not_installed_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = "they need torch: pip install 'lm[bench]'"
    monkeypatch.setattr(run.torch_peers, "missing", lambda: absent)
    [values], _ = _measured(tmp_path, monkeypatch, peers=PEERS)("float32")
    assert values["left_out"] == {"the peers": absent}
    assert f"left out: the peers: {absent}" in values["table"]
    assert len(values["contestants"]) == 2
    # All of them are what nobody asked for by name; a name is meant.
    assert run.select("train", [], PEERS)[1] == ["ii"]
    with pytest.raises(UserError, match=r"--peers=eager: they need torch.*or --peers=none"):
        run.select("train", [], ("eager",))


def test_the_text_of_another_python_is_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workload, "_write_text", lambda folder: None)
    found = set()
    for version in ("3.11.1", "3.12.0"):
        monkeypatch.setattr(workload.platform, "python_version", lambda version=version: version)
        with workload.place(None, tmp_path) as where:
            found.add(where.text)
    assert len(found) == 2
