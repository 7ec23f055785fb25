"""Two stacks joined by cross-attention: the original Transformer, T5, BART, M2M-100."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lm.config import ModelConfig
from lm.model.attention import Memory
from lm.model.cache import Cache
from lm.model.heads import WithHeads
from lm.model.layers import Embedding
from lm.model.masks import Mask
from lm.model.stack import Stack, StackOutput


class SourceEncoder(Stack):
    """The encoder's stack, with token embeddings of its own where the config has them."""

    def setup(self) -> None:
        c = self.config
        if c.source_vocab_size is not None:
            self.token_embedding = Embedding(
                c.source_vocab_size,
                c.width_of_embedding,
                ("vocab", "embed"),
                c.init.stddev,
                jnp.dtype(c.compute_dtype),
            )
        super().setup()

    def read(
        self,
        source: Int[Array, "B S"],
        shared: Embedding,
        positions: Int[Array, "B S"] | None,
        segment_ids: Int[Array, "B S"] | None = None,
        *,
        train: bool,
        keep_states: bool = False,
    ) -> StackOutput:
        """The states of a source, embedded by the encoder's own table or the `shared` one."""
        table = shared if self.config.source_vocab_size is None else self.token_embedding
        return self(
            table(source), positions=positions, segment_ids=segment_ids, train=train,
            keep_states=keep_states,
        )  # fmt: skip


class EncoderDecoder(WithHeads):
    """An encoder reads the source both ways; a decoder writes the target, looking back at itself
    and at all of the encoded source (Vaswani et al. 2017)."""

    def setup(self) -> None:
        c: ModelConfig = self.config
        self.setup_heads()
        self.encoder = SourceEncoder(c, c.num_layers, causal=False)
        self.decoder = Stack(c, c.decoder_layers, causal=True, cross=True)

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        *,
        source: Int[Array, "B S"] | None = None,
        source_positions: Int[Array, "B S"] | None = None,
        source_segment_ids: Int[Array, "B S"] | None = None,
        encoded: Float[Array, "B S D"] | None = None,
        mask: Mask | None = None,
        positions: Int[Array, "B T"] | None = None,
        segment_ids: Int[Array, "B T"] | None = None,
        cache: Cache | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "B T V"], Cache | None]:
        """Logits of the next target token at every position, float32, and the cache.

        Args:
          tokens: target tokens, the first of which is the config's `decoder_start_id`.
          source: what the encoder reads; or give `encoded`, the result of `encode`. With a cache
            they are given once: it keeps the source's keys and values.
          source_positions: default 0 .. S-1; -1 is padding, which nothing attends to.
          source_segment_ids, segment_ids: which of several pairs a token is of, and so which source
            a target attends to; both or neither. 0 is padding. Not together with a cache.
          mask, positions, cache, train: of the target, as for a decoder
            (`lm.model.transformer.Transformer`).

        Raises:
          ConfigError: more tokens than learned positions.
          ValueError: no source, or both kinds, or one although the cache has seen it.
        """
        x, cache = self.hidden(
            tokens,
            source=source,
            source_positions=source_positions,
            source_segment_ids=source_segment_ids,
            encoded=encoded,
            mask=mask,
            positions=positions,
            segment_ids=segment_ids,
            cache=cache,
            train=train,
        )
        return self.result(x), cache

    def encode(
        self,
        source: Int[Array, "B S"],
        *,
        source_positions: Int[Array, "B S"] | None = None,
        source_segment_ids: Int[Array, "B S"] | None = None,
        train: bool = False,
    ) -> Float[Array, "B S D"]:
        """The encoder's output."""
        read = self.encoder.read(
            source, self.token_embedding, source_positions, source_segment_ids, train=train
        )
        return read.hidden

    def encoder_states(
        self,
        source: Int[Array, "B S"],
        *,
        source_positions: Int[Array, "B S"] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "B S D"], ...]:
        """The input of the encoder's first layer and the output of each."""
        read = self.encoder.read(
            source, self.token_embedding, source_positions, train=train, keep_states=True
        )
        assert read.states is not None
        return read.states

    def hidden(
        self,
        tokens: Int[Array, "B T"],
        *,
        source: Int[Array, "B S"] | None = None,
        source_positions: Int[Array, "B S"] | None = None,
        source_segment_ids: Int[Array, "B S"] | None = None,
        encoded: Float[Array, "B S D"] | None = None,
        mask: Mask | None = None,
        positions: Int[Array, "B T"] | None = None,
        segment_ids: Int[Array, "B T"] | None = None,
        cache: Cache | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "B T D"], Cache | None]:
        """The decoder's output, which `logits` turns into logits. As for `__call__`."""
        if (segment_ids is None) != (source_segment_ids is None):
            raise ValueError("segments of targets need those of sources, and the other way round")
        segments = source_segment_ids, segment_ids
        memory, cache = self._memory(source, source_positions, encoded, cache, train, segments)
        x = self.token_embedding(tokens)
        output = self.decoder(
            x, mask=mask, positions=positions, segment_ids=segment_ids, cache=cache, memory=memory,
            train=train,
        )  # fmt: skip
        return output.hidden, output.cache

    def hidden_states(
        self,
        tokens: Int[Array, "B T"],
        *,
        source: Int[Array, "B S"] | None = None,
        source_positions: Int[Array, "B S"] | None = None,
        encoded: Float[Array, "B S D"] | None = None,
        positions: Int[Array, "B T"] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "B T D"], ...]:
        """The input of the decoder's first layer and the output of each. As for `__call__`."""
        memory, _ = self._memory(source, source_positions, encoded, None, train)
        x = self.token_embedding(tokens)
        output = self.decoder(x, positions=positions, memory=memory, train=train, keep_states=True)
        assert output.states is not None
        return output.states

    def _memory(
        self,
        source: Int[Array, "B S"] | None,
        source_positions: Int[Array, "B S"] | None,
        encoded: Float[Array, "B S D"] | None,
        cache: Cache | None,
        train: bool,
        segments: tuple[jax.Array | None, jax.Array | None] = (None, None),
    ) -> tuple[Memory, Cache | None]:
        """What cross-attention looks at, and the cache with the source's positions."""
        if source is not None and encoded is not None:
            raise ValueError("give the source or encoded, not both")
        if source is not None:
            encoded = self.encode(
                source, source_positions=source_positions, source_segment_ids=segments[0],
                train=train,
            )  # fmt: skip
        remembered = cache is not None and cache.cross is not None
        if (encoded is None) != remembered:
            raise ValueError(
                "the cache has seen the source already: give it once"
                if remembered
                else "an encoder-decoder needs source= or encoded=, or a cache that has seen it"
            )
        if cache is not None:
            if remembered:
                source_positions = cache.source_positions
            else:
                cache = cache.replace(source_positions=source_positions)
        mask = Mask(
            key_positions=source_positions, key_segments=segments[0], query_segments=segments[1]
        )
        return Memory(encoded, mask), cache
