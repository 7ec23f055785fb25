"""How well models of Markov chains guess, beside what counting states and pairs of them gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from lm.config import Config, MarkovChains
from lm.config.checks import at_least, check
from lm.data.markov import bigram_loss, texts, unigram_loss
from lm.errors import ConfigError
from lm.reproduce.measures.base import Found, Inputs, MeasureBase

# Chains whose attention is averaged.
_CHAINS = 64


@dataclass(frozen=True)
class ChainGap(MeasureBase):
    """Of decoders trained on Markov chains, on all chains of `split`:

    RUN            the loss
    RUN-closed     how much of the way from the loss of in-context unigrams to that of bigrams
                   (`lm.data.markov`, on the same chains) it has gone: 0 to 1
    RUN-previous   of attention, how much the first layer has for the token before
    RUN-induction  how much the last layer has for tokens that came after the present state

    `shown` tokens of one chain, and every layer's attention among them, are kept for a figure.
    """

    split: str = "chains"
    shown: int = 32
    kind: Literal["chain_gap"] = "chain_gap"

    def __post_init__(self) -> None:
        check(len(self.runs) > 0, "the loss is one of runs: runs names none")
        at_least(self, 2, "shown")

    @property
    def quantities(self) -> tuple[str, ...]:
        ends = ("", "-closed", "-previous", "-induction")
        return tuple(f"{run}{end}" for run in self.runs for end in ends)

    def measure(self, inputs: Inputs) -> Found:
        values: dict[str, list[float | None]] = {name: [] for name in self.quantities}
        details: dict[str, Any] = {"attention": {}}
        for run, workdirs in inputs.runs.items():
            for workdir in workdirs:
                inputs.report(f"{workdir.name}: loss and attention")
                found, shown = self._of_run(workdir, inputs)
                for end, value in found.items():
                    values[f"{run}{end}"].append(value)
                # Of the first seed.
                details["attention"].setdefault(run, shown)
        return Found(values, details)

    def _of_run(self, workdir: Path, inputs: Inputs) -> tuple[dict[str, float], dict[str, Any]]:
        from lm.evaluate.validation import evaluate_run
        from lm.train.workdir import load_run

        run = load_run(workdir)
        chains, states = self._chains(run.config)
        evaluated = evaluate_run(
            run, data_root=inputs.data_root, cache_dir=inputs.cache_dir,
            batch_size=256, limit=None, report=lambda line: None,
        )  # fmt: skip
        loss = evaluated.splits[self.split]["loss"]
        unigram, bigram = (float(f(chains, states).mean()) for f in (unigram_loss, bigram_loss))
        tokens = chains[:_CHAINS, :-1]
        layers = attention_maps(run.config, run.params, tokens)
        layers = [layer.mean(axis=1) for layer in layers]
        found = {
            "": loss,
            "-closed": (unigram - loss) / (unigram - bigram),
            "-previous": float(np.diagonal(layers[0], -1, 1, 2).mean()),
            "-induction": share_after(layers[-1], tokens),
        }
        part = slice(0, self.shown)
        shown = {
            "tokens": "".join(chr(ord("a") + state) for state in tokens[0, part].tolist()),
            "layers": [np.round(layer[0, part, part], 3).tolist() for layer in layers],
        }
        return found, shown

    def _chains(self, config: Config) -> tuple[Int[np.ndarray, "chains length"], int]:
        source = config.data.validation.get(self.split)
        if not isinstance(source, MarkovChains) or source.fraction != (0.0, 1.0):
            raise ConfigError(
                f"chain_gap: split {self.split!r} is not a whole source of kind 'markov_chains'"
            )
        rows = [np.frombuffer(text.encode("ascii"), np.uint8) for text in texts(source)]
        return np.stack(rows).astype(np.int32) - ord("a"), source.states


def share_after(attention: Float[np.ndarray, "B T T"], tokens: Int[np.ndarray, "B T"]) -> float:
    """Of the attention of all tokens whose state was there before, how much is for those that came
    right after it."""
    after = (
        tokens[:, :, None] == np.pad(tokens[:, :-1], ((0, 0), (1, 0)), constant_values=-1)[:, None]
    )
    after &= np.tri(tokens.shape[1], dtype=bool)
    asked = after.any(axis=-1)
    return float((attention * after).sum(axis=-1)[asked].mean())


def attention_maps(
    config: Config, params: Any, tokens: Int[np.ndarray, "B T"]
) -> list[Float[np.ndarray, "B N T T"]]:
    """Every layer's attention probabilities on these tokens."""
    import jax
    from flax import linen as nn

    from lm.model import build_model
    from lm.model.attention import Attention

    model: Any = build_model(dataclasses.replace(config.model, scan_layers=False, remat="none"))

    @jax.jit
    def blocks_of(params: Any, tokens: jax.Array) -> list[jax.Array]:
        blocks: list[jax.Array] = []

        def keep(function: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
            result = function(*args, **kwargs)
            module = context.module
            # Attention's dropout is given the probabilities, of a block of queries at a time.
            if isinstance(module, nn.Dropout) and isinstance(module.parent, Attention):
                blocks.append(result)
            return result

        with nn.intercept_methods(keep):
            model.apply({"params": params}, tokens)
        return blocks

    length = tokens.shape[1]
    layers: list[np.ndarray] = []
    for block in map(np.asarray, blocks_of(params, tokens)):
        whole = np.pad(block, ((0, 0), (0, 0), (0, 0), (0, length - block.shape[-1])))
        if layers and layers[-1].shape[2] < length:
            layers[-1] = np.concatenate([layers[-1], whole], axis=2)
        else:
            layers.append(whole)
    return layers
