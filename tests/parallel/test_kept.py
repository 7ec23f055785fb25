"""Programs of an earlier start: used before anything is traced, proven, and never another's."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.config import ParallelConfig
from lm.errors import UserError
from lm.parallel import kept as kept_module
from lm.parallel.kept import Kept, folder_of_compiled, origin, sources
from lm.parallel.mapping import Mapped, Program, build_mapping
from lm.train.setup import _suspicious
from lm.train.state import TrainState

BATCHES = {"x": np.arange(8, dtype=np.float32).reshape(2, 4)}


class Counted:
    """A program that adds its batches, `factor` times, to a parameter; and how often it has been
    traced."""

    # Another one in every test, so that JAX's cache has no such program: what comes from there is
    # not kept.
    unique = 0.0

    def __init__(self, factor: float = 1.0) -> None:
        self.traced = {"init": 0, "train": 0}
        self._factor = factor
        self.program = Program(self._init, lambda: {"w": jnp.zeros(3)}, self._train, self._evaluate)

    def _init(self) -> TrainState:
        self.traced["init"] += 1
        w = jnp.full(3, self.unique, jnp.float32)
        return TrainState(jnp.zeros((), jnp.int32), {"w": w}, (), None, jnp.zeros(2, jnp.uint32))

    def _train(self, state: TrainState, batches: Any, *, reduce: Any, device: Any) -> Any:
        self.traced["train"] += 1
        total = self._factor * jnp.sum(batches["x"] + self.unique)
        w = state.params["w"] + total
        metrics = {"total": total[None], "loss": w[:1]}
        return state.replace(step=state.step + 1, params={"w": w}), metrics

    def _evaluate(self, params: Any, batch: Any, *, reduce: Any) -> Any:
        return {"loss": (jnp.sum(params["w"]), jnp.ones(()))}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(Counted, "unique", time.time() % 1)
    return tmp_path


def begin(
    folder: Path, counted: Counted, details: Any = "data", values: Any = "config"
) -> tuple[Mapped, Kept]:
    programs = Kept(folder, values, ["init", "train"])
    programs.details = details
    return build_mapping(ParallelConfig(), counted.program, batch_size=4, kept=programs), programs


def run(mapped: Mapped, steps: int = 1) -> tuple[Any, Any]:
    """The state and the metrics after as many dispatches."""
    mapped.prepare(BATCHES)
    state = mapped.init()
    for _ in range(steps):
        state, metrics = mapped.train(state, BATCHES)
    return jax.device_get((state, metrics))


def left_by_a_start(folder: Path, factor: float = 1.0) -> tuple[Any, Any]:
    mapped, programs = begin(folder, Counted(factor))
    result = run(mapped)
    mapped.settle()
    programs.close()
    assert len(list(folder.rglob("*.json"))) == len(list(folder.rglob("*.program"))) == 2
    return result


def assert_equal(actual: Any, expected: Any) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_a_second_start_computes_the_same_before_it_traces_the_step(folder: Path) -> None:
    expected = left_by_a_start(folder)
    counted = Counted()
    mapped, _ = begin(folder, counted)
    # For the shapes of a state, which an `init` has to be traced for.
    assert counted.traced == {"init": 1, "train": 0}
    assert_equal(run(mapped), expected)
    assert counted.traced["train"] == 0
    mapped.settle()
    assert counted.traced["train"] == 1


def test_the_state_is_donated_and_other_batches_are_computed(folder: Path) -> None:
    left_by_a_start(folder)
    mapped, _ = begin(folder, Counted())
    mapped.prepare(BATCHES)
    first = mapped.init()
    second, _ = mapped.train(first, BATCHES)
    assert first.params["w"].is_deleted()
    longer = {"x": np.ones((3, 4), np.float32)}
    before = np.asarray(second.params["w"])
    third, metrics = mapped.train(second, longer)
    added = np.sum(longer["x"] + np.float32(Counted.unique))
    np.testing.assert_allclose(metrics["total"], added, rtol=1e-6)
    np.testing.assert_allclose(third.params["w"], before + added, rtol=1e-6)


def test_the_proof_begins_without_being_asked_for(folder: Path) -> None:
    left_by_a_start(folder)
    counted = Counted()
    mapped, _ = begin(folder, counted)
    run(mapped, steps=3)
    deadline = time.monotonic() + 20
    while not counted.traced["train"] and time.monotonic() < deadline:
        time.sleep(0.01)
    assert counted.traced["train"] == 1


def test_another_program_under_the_same_key_is_found_out(folder: Path) -> None:
    left_by_a_start(folder)
    mapped, _ = begin(folder, Counted(2.0))
    run(mapped)
    with pytest.raises(UserError, match="not what this code makes"):
        mapped.settle()
    # The one that was right is still there; the wrong one is not, and the next start has its own.
    mapped, programs = begin(folder, Counted(2.0))
    _, metrics = run(mapped)
    mapped.settle()
    np.testing.assert_allclose(
        metrics["total"], 2 * np.sum(BATCHES["x"] + np.float32(Counted.unique))
    )
    programs.close()
    assert len(list(folder.rglob("*.json"))) == 2


def test_what_is_run_after_a_proof_is_proven_too(folder: Path) -> None:
    """A warm start saves its state, and so asks, before its first step."""
    left_by_a_start(folder)
    mapped, _ = begin(folder, Counted(2.0))
    mapped.prepare(BATCHES)
    state = mapped.init()
    mapped.settle()
    mapped.train(state, BATCHES)
    with pytest.raises(UserError, match="not what this code makes"):
        mapped.settle()


def test_a_process_that_is_moved_is_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left_by_a_start(folder)
    counted = Counted()
    mapped, _ = begin(folder, counted)
    run(mapped)
    monkeypatch.setattr(kept_module, "cores", lambda: 1000)
    mapped.settle()
    assert counted.traced["train"] == 1


@pytest.mark.parametrize("proven", [False, True])
def test_what_fails_before_the_proof_is_used_no_more(folder: Path, proven: bool) -> None:
    left_by_a_start(folder)
    mapped, _ = begin(folder, Counted())
    run(mapped)
    if proven:
        mapped.settle()
    session: Any = SimpleNamespace(mapped=mapped)
    with pytest.raises(RuntimeError, match="not found"), _suspicious(session):
        raise RuntimeError("Function fusion.1 not found")
    assert len(list(folder.rglob("*.json"))) == len(list(folder.rglob("*.program"))) == 2 * proven


def test_what_was_used_longest_ago_goes_first(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_module, "_MOST_BYTES", 10**5)
    old, unfinished = folder / "starts" / "old.program", folder / "starts" / ".partial"
    old.parent.mkdir()
    for path in (old, unfinished):
        path.write_bytes(bytes(10**5))
        os.utime(path, (1, 1))
    left_by_a_start(folder)
    assert not old.exists() and not unfinished.exists()


@pytest.mark.parametrize("setting", ["jax_disable_jit", "jax_debug_nans", "jax_debug_infs"])
def test_who_looks_into_programs_traces_them(tmp_path: Path, setting: str) -> None:
    before = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    try:
        assert folder_of_compiled() == tmp_path
        jax.config.update(setting, True)
        assert folder_of_compiled() is None
    finally:
        jax.config.update(setting, False)
        jax.config.update("jax_compilation_cache_dir", before)


def test_no_accelerator_is_taken_to_look_for_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {**jax.config.values, "jax_compilation_cache_dir": str(tmp_path)}

    def taken() -> str:
        raise AssertionError("the backend was initialised")

    monkeypatch.setattr(jax, "default_backend", taken)
    for platforms in ("tpu", "cuda,cpu"):
        settings = SimpleNamespace(values={**values, "jax_platforms": platforms})
        monkeypatch.setattr(jax, "config", settings)
        assert folder_of_compiled() is None


@pytest.mark.parametrize("cut", [0, 20, -1])
def test_a_damaged_program_is_reported_and_compiled_again(
    folder: Path, cut: int, capfd: pytest.CaptureFixture[str]
) -> None:
    expected = left_by_a_start(folder)
    for path in folder.rglob("*.program"):
        path.write_bytes(path.read_bytes()[:cut])
    counted = Counted()
    mapped, _ = begin(folder, counted)
    assert_equal(run(mapped), expected)
    assert counted.traced["train"] == 1
    printed = capfd.readouterr().err
    # Found out before anything is made of it.
    assert printed.count("its checksum is another") == printed.count("compiled again") == 2
    assert "Traceback" not in printed


def test_a_damaged_name_is_none(folder: Path) -> None:
    expected = left_by_a_start(folder)
    for path in folder.rglob("*.json"):
        path.write_text('{"text": ')
    counted = Counted()
    mapped, _ = begin(folder, counted)
    assert_equal(run(mapped), expected)
    assert counted.traced["train"] == 1


@pytest.mark.parametrize("other", [{"details": "other data"}, {"values": "other config"}])
def test_what_a_program_is_made_from_decides_on_it(folder: Path, other: dict[str, str]) -> None:
    left_by_a_start(folder)
    counted = Counted()
    run(begin(folder, counted, **other)[0])
    assert counted.traced["train"] == 1


def test_a_folder_that_cannot_be_written_stops_nothing(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "file").write_text("")
    mapped, programs = begin(folder / "file", Counted())
    run(mapped)
    mapped.settle()
    programs.close()
    assert "is not kept for the next start" in capfd.readouterr().err


def test_what_jax_has_read_from_its_cache_is_not_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_program = jax.stages.Lowered.compile

    def read(lowered: Any) -> Any:
        jax.monitoring.record_event("/jax/compilation_cache/cache_hits")
        return compile_program(lowered)

    monkeypatch.setattr(jax.stages.Lowered, "compile", read)
    mapped, programs = begin(folder, Counted(3.0))
    run(mapped)
    programs.close()
    assert not list(folder.rglob("*.program"))
    assert not list(folder.rglob("*.json"))


def test_the_key_follows_sources_versions_flags_and_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {origin("config"), origin("other")}
    with monkeypatch.context() as changed:
        changed.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
        seen.add(origin("config"))
    with monkeypatch.context() as changed:
        changed.setattr(kept_module, "cores", lambda: 1000)
        seen.add(origin("config"))
    version = kept_module.metadata.version
    for package in kept_module._PACKAGES:

        def newer(name: str, changed_one: str = package) -> str:
            return version(name) + ".1" * (name == changed_one)

        with monkeypatch.context() as changed:
            changed.setattr(kept_module.metadata, "version", newer)
            seen.add(origin("config"))
    before = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    jax.config.update("jax_default_matmul_precision", "float32")
    seen.add(origin("config"))
    jax.config.update("jax_default_matmul_precision", before)
    assert len(seen) == 5 + len(kept_module._PACKAGES)
    assert origin("config") in seen

    (tmp_path / "a").mkdir()
    (tmp_path / "a/b.py").write_text("x = 1\n")
    contents = {sources(tmp_path)}
    (tmp_path / "a/b.py").write_text("x = 2\n")
    contents.add(sources(tmp_path))
    (tmp_path / "a/b.py").rename(tmp_path / "a/c.py")
    contents.add(sources(tmp_path))
    (tmp_path / "d.py").write_text("")
    contents.add(sources(tmp_path))
    assert len(contents) == 4
