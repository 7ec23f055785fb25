"""Our own contestants where something is in their way."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import pytest

from lm.bench.harness import Unavailable
from lm.bench.ours import loop
from lm.bench.ours.attention import Attention
from lm.bench.shapes import TRAIN
from lm.config import to_dict
from lm.model import fused_attention


def test_what_cudnn_does_not_have_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> None:
        raise NotImplementedError("Q must be fp16 or bf16")

    with pytest.raises(Unavailable, match="there is no GPU"):
        Attention("cudnn", 1, 8, 1, 8, "bfloat16", 1).prepare()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(fused_attention, "compute_capability", lambda: "9.0")
    monkeypatch.setattr(jax.nn, "dot_product_attention", missing)
    with pytest.raises(Unavailable, match="Q must be fp16"):
        Attention("cudnn", 1, 8, 1, 8, "float32", 1).prepare()
    # Of another contestant it is an error.
    with pytest.raises(NotImplementedError):
        Attention("jax", 1, 8, 1, 8, "float32", 1).prepare()


def test_an_error_right_after_the_gate_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other thread may fail before this one has the gate in its hands."""

    def fails(*_: Any, around: Any, **__: Any) -> None:
        around(loop.Session(*[None] * len(dataclasses.fields(loop.Session))))
        raise ValueError("the device is gone")

    monkeypatch.setattr(loop.setup, "train", fails)
    config = to_dict(TRAIN["tiny"].config(4))
    contestant = loop.Loop(config, str(tmp_path), str(tmp_path), str(tmp_path), 1, 1)
    contestant._train()
    error = contestant._gate.arrived.get_nowait()
    assert isinstance(error, ValueError)


def test_a_round_without_a_longer_dispatch_has_no_excess() -> None:
    # Begun; two dispatches at once, then one whenever another is done; the end after all of them.
    even = [0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 6.0]
    assert loop.excess(even) == 0.0
    assert loop.excess([*even[:4], *(time + 0.5 for time in even[4:])]) == 0.5
