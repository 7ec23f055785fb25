"""How the next token is chosen from the logits: greedy, or sampled from a reshaped distribution.

The steps and their order are those of Hugging Face's `generate`: repetition penalty, temperature,
top-k, top-p, min-p, typical, epsilon, eta. Each is a pure function of float32 logits [B, V]; a
token that is ruled out gets -inf.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from lm.errors import ConfigError
from lm.types import Key

# Beyond these, float32 logits overflow.
LOWEST_TEMPERATURE = 1e-6
MOST_PENALTY = 1e3


@dataclass(frozen=True)
class SamplingConfig:
    """How to choose a token. Static and hashable; None, and a penalty of 1, leave a step out.

    temperature: logits are divided by it, at least 1e-6; 0 takes the most likely token (the first
      of equals).
    top_k: only the k most likely tokens, and any equal to the k-th; k >= V keeps all (Fan et al.
      2018).
    top_p: only the smallest set of most likely tokens whose probabilities add up to at least p,
      (0, 1]; never empty (nucleus sampling, Holtzman et al. 2020).
    min_p: only tokens at least p times as likely as the most likely one, [0, 1] (Nguyen et al.
      2024).
    typical_p: only the tokens whose information, -log p, is nearest to its mean, the entropy, as
      many as have this probability together, (0, 1] (Meister et al. 2023).
    epsilon_cutoff: only tokens with at least this probability, and the likeliest, [0, 1) (Hewitt et
      al. 2022).
    eta_cutoff: the same with the smaller of it and sqrt(eta_cutoff) * exp(-entropy), [0, 1) (the
      same).
    repetition_penalty: positive logits of tokens already in the prompt or the completion are
      divided by it, negative ones multiplied (Keskar et al. 2019, section 4.1); 0.001 to 1000.

    Raises:
      ConfigError: a value outside its range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    epsilon_cutoff: float | None = None
    eta_cutoff: float | None = None
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        # Written so that NaN fails too.
        if not 0.0 <= self.temperature < float("inf"):
            raise ConfigError(
                f"temperature must be 0 (greedy) or a positive number, not {self.temperature}"
            )
        if 0.0 < self.temperature < LOWEST_TEMPERATURE:
            raise ConfigError(
                f"temperature must be 0 (greedy) or at least {LOWEST_TEMPERATURE:g}, not "
                f"{self.temperature}; use 0 to take the most likely token"
            )
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(
                f"top_k must be at least 1, not {self.top_k}; leave it out for all tokens"
            )
        if self.top_p is not None and not 0.0 < self.top_p <= 1.0:
            raise ConfigError(f"top_p must be above 0 and at most 1, not {self.top_p}")
        if self.min_p is not None and not 0.0 <= self.min_p <= 1.0:
            raise ConfigError(f"min_p must be between 0 and 1, not {self.min_p}")
        if self.typical_p is not None and not 0.0 < self.typical_p <= 1.0:
            raise ConfigError(f"typical_p must be above 0 and at most 1, not {self.typical_p}")
        for name in ("epsilon_cutoff", "eta_cutoff"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value < 1.0:
                raise ConfigError(f"{name} must be at least 0 and below 1, not {value}")
        if not 1 / MOST_PENALTY <= self.repetition_penalty <= MOST_PENALTY:
            raise ConfigError(
                f"repetition_penalty must be between {1 / MOST_PENALTY:g} and {MOST_PENALTY:g} (1 "
                f"is none), not {self.repetition_penalty}"
            )

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0


def penalize_repetition(
    logits: Float[Array, "B V"], seen: Bool[Array, "B V"], penalty: float
) -> Float[Array, "B V"]:
    """`seen` tokens made less likely: logits / `penalty` where positive, * `penalty` elsewhere."""
    return jnp.where(seen, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)


def keep_top_k(logits: Float[Array, "B V"], k: int) -> Float[Array, "B V"]:
    """-inf for all but the k highest logits of a row and those equal to the k-th."""
    if k >= logits.shape[-1]:
        return logits
    # XLA has a fast way for top_k only where all of its result is used: a slice makes it a sort.
    kth = jnp.min(jax.lax.top_k(logits, k)[0], axis=-1, keepdims=True)
    return jnp.where(logits >= kth, logits, -jnp.inf)


def keep_top_p(logits: Float[Array, "B V"], p: float | Float[Array, "B 1"]) -> Float[Array, "B V"]:
    """-inf outside the smallest set of most likely tokens with total probability >= p, which may
    be one a row.

    Of equally likely tokens the first in the vocabulary comes first.
    """
    if not isinstance(p, jax.Array) and p >= 1.0:
        return logits
    order = jnp.argsort(-logits, axis=-1, stable=True)
    ranked = jax.nn.softmax(jnp.take_along_axis(logits, order, axis=-1), axis=-1)
    # A token is needed as long as those before it fall short of p; the first always is.
    # Sums of probabilities only: cumsum - ranked would round once more, across the boundary.
    before = jnp.pad(jnp.cumsum(ranked, axis=-1)[:, :-1], ((0, 0), (1, 0)))
    needed = (before < p).at[..., 0].set(True)
    rows = jnp.arange(logits.shape[0])[:, None]
    keep = jnp.zeros(logits.shape, bool).at[rows, order].set(needed, unique_indices=True)
    return jnp.where(keep, logits, -jnp.inf)


def keep_min_p(logits: Float[Array, "B V"], p: float) -> Float[Array, "B V"]:
    """-inf for tokens with less than p times the probability of the row's most likely token."""
    if p == 0.0:
        return logits
    highest = jnp.max(logits, axis=-1, keepdims=True)
    return jnp.where(logits - highest >= jnp.log(jnp.float32(p)), logits, -jnp.inf)


def keep_typical(logits: Float[Array, "B V"], p: float) -> Float[Array, "B V"]:
    """-inf outside the smallest set of tokens nearest to the entropy in information with total
    probability >= p, and those as near as the last of it."""
    if p >= 1.0:
        return logits
    logprobs = jax.nn.log_softmax(logits, axis=-1)
    distance = jnp.abs(-logprobs - _entropy(logprobs))
    order = jnp.argsort(distance, axis=-1, stable=True)
    total = jnp.cumsum(jnp.exp(jnp.take_along_axis(logprobs, order, axis=-1)), axis=-1)
    last = jnp.minimum(jnp.sum(total < p, axis=-1, keepdims=True), logits.shape[-1] - 1)
    farthest = jnp.take_along_axis(jnp.take_along_axis(distance, order, axis=-1), last, axis=-1)
    return jnp.where(distance <= farthest, logits, -jnp.inf)


def keep_epsilon(logits: Float[Array, "B V"], epsilon: float) -> Float[Array, "B V"]:
    """-inf for tokens with a probability below epsilon, but for the likeliest."""
    return _keep_above(logits, jnp.float32(epsilon))


def keep_eta(logits: Float[Array, "B V"], epsilon: float) -> Float[Array, "B V"]:
    """As `keep_epsilon`, with min(epsilon, sqrt(epsilon) * exp(-entropy))."""
    entropy = _entropy(jax.nn.log_softmax(logits, axis=-1))
    return _keep_above(logits, jnp.minimum(epsilon, epsilon**0.5 * jnp.exp(-entropy)))


def _keep_above(logits: Float[Array, "B V"], least: Array) -> Float[Array, "B V"]:
    highest = jnp.max(logits, axis=-1, keepdims=True)
    keep = (jax.nn.softmax(logits, axis=-1) >= least) | (logits == highest)
    return jnp.where(keep, logits, -jnp.inf)


def _entropy(logprobs: Float[Array, "B V"]) -> Float[Array, "B 1"]:
    """In nats; a token that is ruled out adds nothing."""
    finite = jnp.where(logprobs > -jnp.inf, logprobs, 0.0)
    return -jnp.sum(jnp.exp(logprobs) * finite, axis=-1, keepdims=True)


def process_logits(
    logits: Float[Array, "B V"],
    sampling: SamplingConfig,
    seen: Bool[Array, "B V"] | None = None,
) -> Float[Array, "B V"]:
    """The logits after every step `sampling` asks for, in the order of this file's first lines.

    With temperature 0 only the repetition penalty applies: no later step moves the maximum.
    `seen` marks the tokens of prompt and completion so far; only the repetition penalty needs it.
    """
    if sampling.repetition_penalty != 1.0:
        if seen is None:
            raise ValueError("repetition_penalty needs the mask of tokens seen so far")
        logits = penalize_repetition(logits, seen, sampling.repetition_penalty)
    if sampling.greedy:
        return logits
    # From the highest logit on, so that a low temperature does not overflow: it divides 0.
    logits = (logits - jnp.max(logits, axis=-1, keepdims=True)) / sampling.temperature
    if sampling.top_k is not None:
        logits = keep_top_k(logits, sampling.top_k)
    if sampling.top_p is not None:
        logits = keep_top_p(logits, sampling.top_p)
    if sampling.min_p is not None:
        logits = keep_min_p(logits, sampling.min_p)
    if sampling.typical_p is not None:
        logits = keep_typical(logits, sampling.typical_p)
    if sampling.epsilon_cutoff is not None:
        logits = keep_epsilon(logits, sampling.epsilon_cutoff)
    if sampling.eta_cutoff is not None:
        logits = keep_eta(logits, sampling.eta_cutoff)
    return logits


def likeliest(logits: Float[Array, "B V"]) -> Int[Array, " B"]:
    """The first of a row's highest logits. `jnp.argmax` carries an index along with every number it
    looks at: on a CPU five times slower than to look twice."""
    highest = jnp.max(logits, axis=-1, keepdims=True)
    index = jnp.arange(logits.shape[-1], dtype=jnp.int32)
    # Of NaNs none is the highest: an index all the same, the last.
    return jnp.min(jnp.where(logits == highest, index, index[-1]), axis=-1)


def sample(
    keys: Key,
    logits: Float[Array, "B V"],
    sampling: SamplingConfig,
    seen: Bool[Array, "B V"] | None = None,
) -> Int[Array, " B"]:
    """One token a row, int32. `keys` [B] is one random key a row, so that rows do not depend on
    their neighbours; greedy choice leaves them unused."""
    logits = process_logits(logits, sampling, seen)
    if sampling.greedy:
        return likeliest(logits)
    return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)
