from __future__ import annotations

import jax
import pytest

from lm.cli.configs import load_config
from lm.objectives import build_objective
from lm.train import throughput
from lm.train.state import boxed_params


def test_gpt2_flops_by_both_conventions() -> None:
    """0.855 GFLOP a token is what is published for GPT-2 124M at 1024 positions by PaLM's count;
    the causal count leaves out half of the attention, 6 * 12 * 768 * 1024."""
    config = load_config("experiments/gpt2/openwebtext.py:124m", [("model.vocab_size", "50257")])
    objective = build_objective(config.objective, config.model)
    shape = jax.ShapeDtypeStruct((1, 8), "int32")
    batch = {"tokens": shape, "targets": shape, "weights": jax.ShapeDtypeStruct((1, 8), "float32")}
    params = jax.eval_shape(lambda: boxed_params(objective, batch, 0))
    flops = throughput.flops_per_token(config.model, params, 1024)
    assert flops.palm / 1e9 == pytest.approx(0.855, abs=5e-4)
    assert flops.palm - flops.causal == 6 * 12 * 768 * 1024


def test_known_devices_have_their_vendors_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    class Device:
        device_kind = "NVIDIA H100 80GB HBM3"

    monkeypatch.setattr(jax, "devices", lambda: [Device()] * 2)
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    assert throughput.peak_flops() == 2 * 989e12


def test_the_cpus_peak_is_measured() -> None:
    assert 1e9 < throughput.peak_flops() < 1e14
