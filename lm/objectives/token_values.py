"""What a language model's loss is made of, token by token, and its slopes in the logits."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


@dataclass(frozen=True)
class TokenValues:
    """Cross-entropy ("loss") and whether it is right ("accuracy"); where they are asked for, the
    mean of -log p over the vocabulary ("uniform_loss") and log(Z)^2 ("z_loss")."""

    uniform_loss: bool = False
    z_loss: bool = False

    def __call__(
        self, logits: Float[Array, "*shape V"], targets: Int[Array, "*shape"]
    ) -> tuple[Float[Array, "*shape"], dict[str, Float[Array, "*shape"]]]:
        """log Z, the logarithm of the sum of exp(logits), and the values."""
        log_z = jax.nn.logsumexp(logits, axis=-1)
        # A masked sum, because the gradient of a gather is a scatter into a second array of logits.
        hit = jnp.arange(logits.shape[-1]) == targets[..., None]
        of_target = jnp.sum(jnp.where(hit, logits, 0), axis=-1)
        right = jnp.sum(logits >= of_target[..., None], axis=-1) == 1
        values = {"loss": log_z - of_target, "accuracy": right.astype(jnp.float32)}
        if self.uniform_loss:
            values["uniform_loss"] = log_z - jnp.mean(logits, axis=-1)
        if self.z_loss:
            values["z_loss"] = jnp.square(log_z)
        return log_z, values

    def slopes(
        self,
        logits: Float[Array, "*shape part"],
        hit: Bool[Array, "*shape part"],
        log_z: Float[Array, "*shape"],
        by: dict[str, Float[Array, "*shape"]],
        vocab_size: int,
    ) -> Float[Array, "*shape part"]:
        """The gradient, in a part of the logits, of the sum of `by` times the values.

        Args:
          hit: which logits of the part are their token's target.
        """
        of_softmax = by["loss"]
        if self.uniform_loss:
            of_softmax = of_softmax + by["uniform_loss"]
        if self.z_loss:
            of_softmax = of_softmax + 2 * log_z * by["z_loss"]
        softmax = jnp.exp(logits - log_z[..., None])
        slopes = softmax * of_softmax[..., None] - jnp.where(hit, by["loss"][..., None], 0)
        if self.uniform_loss:
            slopes -= by["uniform_loss"][..., None] / vocab_size
        return slopes
