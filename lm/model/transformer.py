"""One stack between token embeddings and heads: decoders (GPT, Llama) and encoders (BERT)."""

from __future__ import annotations

from typing import Any

from flax import linen as nn
from jaxtyping import Array, Float, Int

from lm.model.cache import Cache
from lm.model.heads import WithHeads
from lm.model.masks import Mask
from lm.model.stack import Stack


class Transformer(WithHeads):
    """A decoder, whose tokens look back, or an encoder, whose tokens look both ways."""

    def setup(self) -> None:
        c = self.config
        self.setup_heads()
        self.stack = Stack(c, c.num_layers, causal=c.architecture == "decoder")
        # The layers are the model's own: there is no other stack to tell them from.
        nn.share_scope(self, self.stack)

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        *,
        mask: Mask | None = None,
        positions: Int[Array, "B T"] | None = None,
        segment_ids: Int[Array, "B T"] | None = None,
        token_types: Int[Array, "B T"] | None = None,
        cache: Cache | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "B T V"], Cache | None]:
        """Logits at every position, float32, and the cache with these tokens; a model without a
        language-model head gives hidden states in their place.

        Args:
          tokens: token ids.
          mask: conditions on attention besides positions, segments and cache; None is causal in a
            decoder and all in an encoder, `Mask()` looks both ways.
          positions: default 0 .. T-1, or on from the cache's index. -1 is padding: never attended
            to, its own logits mean nothing (and are finite).
          segment_ids: attention stays within equal ids; 0 is padding. With a causal mask, positions
            ascend from token to token of a segment. Not together with a cache.
          token_types: which of the config's token types each token is (BERT's segments A and B);
            default 0.
          cache: keys and values of earlier tokens; these tokens are added to it.
          train: apply dropout, with the random stream "dropout".

        Raises:
          ConfigError: more tokens than learned positions.
          ValueError: a cache with segments, or with fewer slots than tokens; token types that the
            model does not know. Where the number of tokens in the cache is known only while
            running, an overflow makes the logits NaN.
        """
        x, cache = self.hidden(
            tokens,
            mask=mask,
            positions=positions,
            segment_ids=segment_ids,
            token_types=token_types,
            cache=cache,
            train=train,
        )
        return self.result(x), cache

    def hidden(
        self, tokens: Int[Array, "B T"], **arguments: Any
    ) -> tuple[Float[Array, "B T D"], Cache | None]:
        """What `logits` turns into logits: the last layer's output, after the final norm (pre).

        Arguments and errors as for `__call__`.
        """
        output = self.stack(self.token_embedding(tokens), **arguments)
        return output.hidden, output.cache

    def hidden_states(
        self, tokens: Int[Array, "B T"], **arguments: Any
    ) -> tuple[Float[Array, "B T D"], ...]:
        """The first layer's input and every layer's output, the last one as `hidden` gives it.

        Arguments and errors as for `__call__`.
        """
        states = self.stack(self.token_embedding(tokens), **arguments, keep_states=True).states
        assert states is not None
        return states
