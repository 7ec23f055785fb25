"""A training loop in torch as nanoGPT writes it, eager or compiled."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lm.bench.harness import Unavailable
from lm.bench.machine import matmul_rate
from lm.bench.peers.torch_gpt2 import GPT2
from lm.bench.workload import BATCHES, PARAMETERS


class Train:
    """Steps of AdamW (fused) on the batches and from the parameters that `folder` holds.

    Args:
      model: `lm.config.to_dict` of a ModelConfig. GPT-2 is `torch_gpt2`'s; anything else is
        transformers', from the Hugging Face folder in `folder`.
      optimizer: of an AdamW.
      compiled: through torch.compile.
    """

    def __init__(
        self,
        model: dict[str, Any],
        optimizer: dict[str, Any],
        folder: str,
        compiled: bool,
        warmup: int,
        round_steps: int,
        lead: int = 0,
    ) -> None:
        self._model_config, self._optimizer_config = model, optimizer
        self._folder, self._compiled = Path(folder), compiled
        self._warmup, self._round_steps, self._lead = warmup, round_steps, lead
        self._step = 0
        self._losses: list[torch.Tensor] = []

    def start(self) -> None:
        """Model, optimiser and batches, and no step yet."""
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._bfloat16 = self._model_config["compute_dtype"] == "bfloat16"
        model = load_model(self._model_config, self._folder).to(self._device).train()
        self._parameters = list(model.parameters())
        self._optimizer = fused_adamw(model, self._optimizer_config)
        self._model = torch.compile(model) if self._compiled else model
        with np.load(self._folder / BATCHES) as file:
            self._tokens = torch.from_numpy(file["tokens"].astype(np.int64))
            self._targets = torch.from_numpy(file["targets"].astype(np.int64))

    def prepare(self) -> dict[str, Any]:
        self.start()
        with fast_attention(self._device):
            self._prepare_steps()
        _, batch, length = self._tokens.shape
        return {
            "units": self._round_steps,
            "tokens_per_unit": batch * length,
            "threads": torch.get_num_threads(),
            "matmul_flops": matmul_ceiling(self._device, self._bfloat16),
        }

    def _prepare_steps(self) -> None:
        if not self._compiled:
            self._run(self._warmup)
            return
        try:
            self._run(self._warmup)
        # Whatever the compiler is missing, it says so in one of many classes.
        except Exception as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise Unavailable(f"torch.compile does not work here: {reason[0][:200]}") from error

    def round(self) -> float:
        with fast_attention(self._device):
            self._run(self._lead)
            began = time.perf_counter()
            self._run(self._round_steps)
            return time.perf_counter() - began

    def finish(self) -> dict[str, Any]:
        losses = torch.stack(self._losses).float().tolist()
        facts: dict[str, Any] = {"losses": {str(i + 1): loss for i, loss in enumerate(losses)}}
        if self._device.type == "cuda":
            facts["peak_device_memory"] = torch.cuda.max_memory_allocated()
        return facts

    def _run(self, steps: int) -> None:
        for _ in range(steps):
            tokens = self._tokens[self._step].to(self._device, non_blocking=True)
            targets = self._targets[self._step].to(self._device, non_blocking=True)
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bfloat16):
                loss = self._model(tokens, targets)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self._parameters, self._optimizer_config["clip_norm"])
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)
            self._losses.append(loss.detach())
            self._step += 1
        if self._device.type == "cuda":
            torch.cuda.synchronize()


class Transformers(torch.nn.Module):
    """A model of transformers behind the interface of `GPT2`."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM

        super().__init__()
        self.model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = self.model(tokens, use_cache=False).logits
        return torch.nn.functional.cross_entropy(
            logits.view(-1, logits.shape[-1]).float(), targets.view(-1)
        )


def load_model(model: dict[str, Any], folder: Path) -> torch.nn.Module:
    """The model with our initial parameters."""
    if model["position"]["kind"] != "learned":
        return Transformers(folder)
    with np.load(folder / PARAMETERS) as file:
        return GPT2(model).load(file)


def fused_adamw(model: torch.nn.Module, config: dict[str, Any]) -> torch.optim.AdamW:
    """AdamW that decays matrices and no vectors, as lm's rules and nanoGPT do."""
    parameters = list(model.parameters())
    groups = [
        {
            "params": [p for p in parameters if p.dim() >= 2],
            "weight_decay": config["weight_decay"],
        },
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups,
        lr=config["learning_rate"],
        betas=(config["beta1"], config["beta2"]),
        eps=config["epsilon"],
        fused=True,
    )


def fast_attention(device: torch.device) -> Any:
    """On a GPU cuDNN's attention before flash attention, which is slower on the newest ones."""
    if device.type != "cuda":
        return contextlib.nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel

    backends = [
        SDPBackend.CUDNN_ATTENTION,
        SDPBackend.FLASH_ATTENTION,
        SDPBackend.EFFICIENT_ATTENTION,
        SDPBackend.MATH,
    ]
    return sdpa_kernel(backends, set_priority=True)


def matmul_ceiling(device: torch.device, bfloat16: bool) -> float:
    """torch's own best matrix product in FLOP/s."""
    size = 2048 if device.type == "cpu" else 8192
    x = torch.ones((size, size), device=device, dtype=torch.bfloat16 if bfloat16 else None)

    def product() -> None:
        x @ x
        if device.type == "cuda":
            torch.cuda.synchronize()

    return matmul_rate(product, size, seconds=0.5)
