"""Where prompts start, the shapes they are padded to, and what does not fit the memory."""

from __future__ import annotations

import dataclasses

import pytest

from lm.config import ByteTokenizer, DataConfig, Embedded, ModelConfig, NoPosition
from lm.data.tokenizers.simple import Bytes, Characters
from lm.errors import ConfigError
from lm.generate import prompts
from lm.generate.prompts import bucket, check_memory, pad_left, start_token
from lm.model import init_cache
from lm.model.cache import cache_bytes

BYTES = Bytes()
CONFIG = ModelConfig(
    vocab_size=100, num_layers=3, d_model=8, num_heads=4, num_kv_heads=2, d_ff=8,
    position=NoPosition(), compute_dtype="bfloat16",
)  # fmt: skip


def test_start_token_is_what_stood_before_documents_in_training():
    data = DataConfig(train={"t": Embedded()}, tokenizer=ByteTokenizer(), sequence_length=8)
    assert start_token(data, BYTES) == BYTES.eos_id
    assert start_token(dataclasses.replace(data, add_bos=True), BYTES) == BYTES.bos_id
    assert start_token(dataclasses.replace(data, add_eos=False), BYTES) is None
    # No token is predicted across documents here, so eos never came before a first token.
    assert start_token(dataclasses.replace(data, segments=True), BYTES) is None
    assert start_token(dataclasses.replace(data, packing="first_fit"), BYTES) is None
    assert start_token(data, Characters.train(["ab"])) is None


def test_buckets_are_few_and_within_the_limit():
    assert [bucket(n) for n in (1, 16, 17, 64, 65, 256, 257, 512, 513)] == [
        16, 16, 32, 64, 128, 256, 512, 512, 768]  # fmt: skip
    assert [bucket(n, 100) for n in (1, 65, 100)] == [16, 100, 100]


def test_padding_is_on_the_left():
    tokens, positions = pad_left([[5], [6, 7, 8]], 4)
    assert tokens.tolist() == [[0, 0, 0, 5], [0, 6, 7, 8]]
    assert positions.tolist() == [[-1, -1, -1, 0], [-1, 0, 1, 2]]


def test_the_estimate_is_the_size_of_the_cache():
    cache = init_cache(CONFIG, 5, 7)
    arrays = (*cache.keys, *cache.values, cache.positions)
    assert cache_bytes(CONFIG, 5, 7) == sum(x.nbytes for x in arrays)


def test_more_than_the_memory_is_refused_with_the_numbers(monkeypatch):
    # 10 rows: 20 slots of 2 * 3 layers * 2 heads * 2 wide in bfloat16 and a position; 100 logits.
    needed = 10 * (20 * (2 * 3 * 2 * 2 * 2 + 4) + 4 * 100)
    monkeypatch.setattr(prompts, "memory_bytes", lambda: needed)
    check_memory(CONFIG, 10, 20)
    monkeypatch.setattr(prompts, "memory_bytes", lambda: needed - 1)
    with pytest.raises(ConfigError, match="10 sequences of up to 20 tokens need .* GiB of memory"):
        check_memory(CONFIG, 10, 20)


def test_the_memory_of_this_machine_is_known():
    assert 2**28 < prompts.memory_bytes() < 2**50
