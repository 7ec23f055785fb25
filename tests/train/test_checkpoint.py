"""Checkpoints: what comes back, what is kept, and what is done about damage."""

from __future__ import annotations

import dataclasses
import re
import threading
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from lm.config import CheckpointConfig, ParallelConfig
from lm.errors import UserError
from lm.parallel.mesh import make_mesh
from lm.train.checkpoint import Checkpoints
from lm.train.state import TrainState

KEEP = CheckpointConfig(keep_last=3)


def make_state(step: int = 0, width: int = 8, ema: bool = False) -> TrainState:
    key = jax.random.fold_in(jax.random.key(0), step)
    params = {"layer_0": {"kernel": jax.random.normal(key, (width, 4))}, "bias": jnp.ones(3)}
    return TrainState(
        step=jnp.int32(step),
        params=params,
        opt_state=optax.adamw(1e-3).init(params),
        ema=jax.tree.map(lambda x: 2 * x, params) if ema else None,
        rng=jax.random.key_data(jax.random.key(5)),
    )


def abstract(state: TrainState) -> Any:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def save(folder: Path, steps: list[int], config: CheckpointConfig = KEEP, **kwargs: Any) -> None:
    checkpoints = Checkpoints(folder, config)
    for step in steps:
        metrics = {"loss": kwargs["losses"][step]} if "losses" in kwargs else None
        checkpoints.save(step, make_state(step), {"next_step": step}, {"by": "test"}, metrics)
    checkpoints.close()


def assert_equal(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("asynchronous", [True, False])
def test_round_trip(tmp_path: Path, asynchronous: bool) -> None:
    save(tmp_path / "c", [1, 2], CheckpointConfig(asynchronous=asynchronous))
    restored = Checkpoints(tmp_path / "c", KEEP).restore(abstract(make_state()))
    assert restored is not None
    assert (restored.step, restored.data, restored.meta) == (2, {"next_step": 2}, {"by": "test"})
    assert_equal(restored.state, make_state(2))


def test_nothing_to_restore(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "c", KEEP).restore(abstract(make_state())) is None


def test_the_state_may_be_overwritten_as_soon_as_save_returns(tmp_path: Path) -> None:
    overwrite = jax.jit(lambda s: jax.tree.map(lambda x: x * 0, s), donate_argnums=0)
    checkpoints = Checkpoints(tmp_path / "c", KEEP)
    state = make_state(1, width=100_000)
    expected = jax.tree.map(np.array, state)
    checkpoints.save(1, state, {}, {})
    for _ in range(3):
        state = overwrite(state)
    checkpoints.wait()
    restored = checkpoints.restore(abstract(state))
    assert restored is not None
    assert_equal(restored.state, expected)


def test_what_is_saved_is_the_state_of_its_step_though_writing_begins_later(tmp_path: Path) -> None:
    overwrite = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    checkpoints, go = Checkpoints(tmp_path / "c", KEEP), threading.Event()
    state = make_state(1)
    snapshot = checkpoints.snapshot(state, state.params)
    state = overwrite(state)
    checkpoints.save(1, snapshot, {}, {}, first=lambda: assert_true(go.wait(60)))
    for _ in range(3):
        state = overwrite(state)
    assert checkpoints.steps() == []
    go.set()
    checkpoints.wait()
    restored = checkpoints.restore(abstract(state))
    assert restored is not None
    assert_equal(restored.state, make_state(1))


@pytest.mark.parametrize("asynchronous", [True, False])
def test_parameters_that_are_not_finite_are_not_saved(tmp_path: Path, asynchronous: bool) -> None:
    checkpoints = Checkpoints(tmp_path / "c", CheckpointConfig(asynchronous=asynchronous))
    state, called = make_state(2), []
    checkpoints.save(1, checkpoints.snapshot(state, state.params), {}, {})
    bad = dataclasses.replace(
        state, params={**state.params, "bias": jnp.array([1.0, jnp.nan, 1.0])}
    )
    with pytest.raises(UserError, match="step 2: .* not finite; nothing was saved"):
        snapshot = checkpoints.snapshot(bad, bad.params)
        checkpoints.save(2, snapshot, {}, {}, first=lambda: called.append(2))
        checkpoints.wait()
    checkpoints.close()
    assert checkpoints.steps() == [1] and not called


@pytest.mark.parametrize("asynchronous", [True, False])
def test_nothing_is_written_when_what_comes_first_fails(tmp_path: Path, asynchronous: bool) -> None:
    def full() -> None:
        raise UserError("could not write the metrics")

    checkpoints = Checkpoints(tmp_path / "c", CheckpointConfig(asynchronous=asynchronous))
    with pytest.raises(UserError, match="the metrics"):
        checkpoints.save(1, make_state(1), {}, {}, first=full)
        checkpoints.wait()
    assert checkpoints.steps() == []


@pytest.mark.parametrize("look", ["check", "wait", "save", "close"])
def test_a_write_that_fails_in_the_background_is_heard_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look: str
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    checkpoints = Checkpoints(tmp_path / "c", KEEP)
    checkpoints.save(1, make_state(1), {}, {})
    checkpoints.wait()
    monkeypatch.setattr(checkpoints._manager, "save", full)
    checkpoints.save(2, make_state(2), {}, {})
    while look == "check" and checkpoints._background._failure is None:
        time.sleep(0.001)
    with pytest.raises(UserError, match="disk full while writing a checkpoint"):
        if look == "save":
            checkpoints.save(3, make_state(3), {}, {})
        else:
            getattr(checkpoints, look)()
    assert checkpoints.steps() == [1]


def assert_true(value: bool) -> None:
    assert value


def test_restores_onto_another_sharding(tmp_path: Path) -> None:
    save(tmp_path / "c", [1])
    mesh = make_mesh(ParallelConfig(data=2, fsdp=2))

    def wanted_leaf(x: jax.Array) -> jax.ShapeDtypeStruct:
        spec = PartitionSpec("fsdp") if x.shape[:1] == (8,) else PartitionSpec()
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))

    wanted = jax.tree.map(wanted_leaf, make_state())
    restored = Checkpoints(tmp_path / "c", KEEP).restore(wanted)
    assert restored is not None
    kernel = restored.state.params["layer_0"]["kernel"]
    assert kernel.addressable_shards[0].data.shape == (4, 4)
    assert_equal(jax.device_get(restored.state), jax.device_get(make_state(1)))


def test_keeps_the_last_and_the_best(tmp_path: Path) -> None:
    losses = {1: 3.0, 2: 1.0, 3: 2.0, 4: 2.5, 5: 2.6}
    config = CheckpointConfig(keep_last=2, keep_best=1)
    save(tmp_path / "c", [1, 2, 3, 4, 5], config, losses=losses)
    assert Checkpoints(tmp_path / "c").steps() == [2, 4, 5]


@pytest.mark.parametrize("mode", ["min", "max"])
def test_of_equals_the_first_is_the_best(tmp_path: Path, mode: Any) -> None:
    """As early stopping and --step=best have it; also after a resume."""
    sign = 1.0 if mode == "min" else -1.0
    losses = {step: sign * loss for step, loss in {1: 3.0, 2: 1.0, 3: 1.0, 4: 1.0, 5: 2.0}.items()}
    config = CheckpointConfig(keep_last=1, keep_best=1, mode=mode)
    save(tmp_path / "c", [1, 2, 3], config, losses=losses)
    save(tmp_path / "c", [4, 5], config, losses=losses)
    assert Checkpoints(tmp_path / "c").steps() == [2, 5]
    two = dataclasses.replace(config, keep_best=2)
    save(tmp_path / "d", [1, 2, 3, 4, 5], two, losses=losses)
    assert Checkpoints(tmp_path / "d").steps() == [2, 3, 5]


def test_the_best_stays_when_the_run_is_continued(tmp_path: Path) -> None:
    losses = {1: 0.1, 2: 0.5, 3: 0.9, 4: 0.8}
    config = CheckpointConfig(keep_last=1, keep_best=1)
    save(tmp_path / "c", [1, 2], config, losses=losses)
    save(tmp_path / "c", [3, 4], config, losses=losses)
    assert Checkpoints(tmp_path / "c").steps() == [1, 4]


def test_parts_without_knowing_the_model(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    checkpoints = Checkpoints(folder, KEEP)
    checkpoints.save(1, make_state(1, ema=True), {}, {})
    checkpoints.close()
    state = Checkpoints(folder).restore_parts(("params", "ema")).state
    assert_equal(state["params"], make_state(1).params)
    assert_equal(state["ema"], make_state(1, ema=True).ema)
    save(tmp_path / "d", [1])
    assert Checkpoints(tmp_path / "d").restore_parts(("ema",)).state == {"ema": None}


def damage(folder: Path, step: int, how: str) -> None:
    files = [p for p in (folder / str(step) / "state").rglob("d/*") if p.is_file()]
    largest = max(files, key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    if how == "flipped bit":
        content[len(content) // 2] ^= 1
        largest.write_bytes(content)
    elif how == "missing file":
        largest.unlink()
    else:
        largest.write_bytes(content[: len(content) // 2])
    if how == "truncated, no checksums":
        (folder / str(step) / "checksums.json").unlink()
        for file in files:
            file.write_bytes(b"")


@pytest.mark.parametrize(
    "how", ["flipped bit", "missing file", "truncated", "truncated, no checksums"]
)
def test_a_damaged_checkpoint_is_reported_and_the_one_before_used(tmp_path: Path, how: str) -> None:
    folder = tmp_path / "c"
    save(folder, [1, 2, 3])
    damage(folder, 3, how)
    said: list[str] = []
    checkpoints = Checkpoints(folder, KEEP, said.append)
    restored = checkpoints.restore(abstract(make_state()))
    assert restored is not None
    assert_equal(restored.state, make_state(2))
    assert said[0].startswith("checkpoint of step 3 is damaged (")
    assert said[0].endswith("using the one before it")
    # It is out of the way of the run that goes on, and still there to be looked at.
    assert (tmp_path / "damaged" / "3").is_dir()
    checkpoints.save(3, make_state(3), {}, {})
    checkpoints.close()
    assert Checkpoints(folder).steps() == [1, 2, 3]


def test_reading_does_not_move_damaged_checkpoints(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    save(folder, [1, 2])
    damage(folder, 2, "flipped bit")
    said: list[str] = []
    assert Checkpoints(folder, report=said.append).restore_parts(("params",)).step == 1
    assert (folder / "2").is_dir()
    assert "step 2 is damaged" in said[0]


def test_all_damaged_is_an_error_not_a_fresh_start(tmp_path: Path) -> None:
    save(tmp_path / "c", [1])
    damage(tmp_path / "c", 1, "truncated")
    for _ in range(2):  # And it stays an error: nothing was moved out of the way.
        with pytest.raises(UserError, match="every checkpoint in .* is damaged"):
            Checkpoints(tmp_path / "c", KEEP, lambda _: None).restore(abstract(make_state()))


def test_unreadable_checksums_are_damage(tmp_path: Path) -> None:
    save(tmp_path / "c", [1, 2])
    (tmp_path / "c" / "2" / "checksums.json").write_text("[]")
    restored = Checkpoints(tmp_path / "c", KEEP, lambda _: None).restore(abstract(make_state()))
    assert restored is not None and restored.step == 2  # An empty list claims nothing.
    (tmp_path / "c" / "2" / "checksums.json").write_text("[1]")
    restored = Checkpoints(tmp_path / "c", KEEP, lambda _: None).restore(abstract(make_state()))
    assert restored is not None and restored.step == 1


def test_an_unfinished_write_is_reported(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    save(folder, [1])
    (folder / "2.orbax-checkpoint-tmp").mkdir()
    said: list[str] = []
    checkpoints = Checkpoints(folder, KEEP, said.append)
    assert said == [
        "the checkpoint of step 2 was not finished when the run stopped; using the one before it"
    ]
    assert checkpoints.steps() == [1]
    # It is removed in the background, before the next one is written.
    checkpoints.save(3, make_state(3), {}, {})
    checkpoints.close()
    assert sorted(path.name for path in folder.iterdir()) == ["1", "3"]


def test_checkpoints_must_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "c").write_text("")
    with pytest.raises(UserError, match="is not a folder"):
        Checkpoints(tmp_path / "c", KEEP)


def test_another_model_names_the_first_leaves_that_differ(tmp_path: Path) -> None:
    save(tmp_path / "c", [1])
    with pytest.raises(UserError, match="of another model") as caught:
        Checkpoints(tmp_path / "c", KEEP).restore(abstract(make_state(width=16)))
    assert "params/layer_0/kernel: checkpoint (8, 4), config (16, 4)" in str(caught.value)


def test_asking_for_a_step(tmp_path: Path) -> None:
    save(tmp_path / "c", [1, 2])
    checkpoints = Checkpoints(tmp_path / "c")
    restored = checkpoints.restore(abstract(make_state()), step=1)
    assert restored is not None and restored.step == 1
    with pytest.raises(UserError, match=re.escape("no checkpoint of step 7")) as caught:
        checkpoints.restore_parts(("params",), step=7)
    assert "there are: 1, 2" in str(caught.value)


def test_no_checkpoints_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="train a run there first"):
        Checkpoints(tmp_path / "nothing" / "checkpoints")
