"""Text generation: stop strings, streaming, special tokens. A scripted model says known tokens."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from lm.config import ByteTokenizer, DataConfig, Embedded, ModelConfig, NoPosition
from lm.data.tokenizers.simple import Bytes, Characters
from lm.data.tokenizers.wordpiece import WordPiece
from lm.errors import ConfigError, UserError
from lm.generate.sampling import SamplingConfig
from lm.generate.text import StopBuffer, TextCompletion, encode_prompt, generate_text

GREEDY = SamplingConfig(temperature=0.0)
BYTES = Bytes()


class Scripted(nn.Module):
    """At position p says script[p], whatever stood before; knows the cache's interface only."""

    config: ModelConfig
    script: tuple[int, ...]

    def hidden(self, tokens: Any, *, positions: Any, cache: Any) -> Any:
        ids = jnp.asarray(self.script)[jnp.clip(positions, 0, len(self.script) - 1)]
        return 20.0 * jax.nn.one_hot(ids, self.config.vocab_size), cache

    def logits(self, hidden: Any) -> Any:
        return hidden

    def __call__(self, tokens: Any, *, positions: Any, cache: Any) -> Any:
        return self.hidden(tokens, positions=positions, cache=cache)


def says(text: str, *special: int, prompt: str = ">") -> Scripted:
    script = [0] * (len(BYTES.encode(prompt)) - 1) + BYTES.encode(text) + list(special)
    config = ModelConfig(
        vocab_size=BYTES.vocab_size, num_layers=1, d_model=2, num_heads=1, d_ff=1,
        position=NoPosition(),
    )  # fmt: skip
    return Scripted(config, tuple(script))


def complete(
    model: Scripted, prompt: str = ">", **options: Any
) -> tuple[TextCompletion, list[str]]:
    pieces: list[str] = []
    options = {"max_new_tokens": 16, "sampling": GREEDY, **options}
    [[completion]] = generate_text(
        model, {}, BYTES, [prompt], on_text=lambda i, j, text: pieces.append(text), **options
    )
    assert "".join(pieces) == completion.text
    return completion, pieces


def test_text_is_streamed_in_whole_characters():
    completion, pieces = complete(says("aé😀!"), max_new_tokens=8, chunk=1)
    assert completion.text == "aé😀!"
    assert pieces == ["a", "é", "😀", "!"]
    assert completion.tokens == BYTES.encode("aé😀!")
    assert completion.finish_reason == "length"


def test_a_character_cut_by_the_end_is_shown_as_replaced():
    completion, _ = complete(says("aé"), max_new_tokens=2)
    assert completion.text == "a\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("chunk", [1, 2, 8, 64])
def test_a_stop_string_over_many_tokens_trims_the_text(chunk):
    completion, pieces = complete(
        says("abc\n\nxyz" + "z" * 20), stop=["\n\n", "never"], chunk=chunk
    )
    assert completion.text == "abc"
    # The token that completed the stop string is the last; what the chunk made beyond is dropped.
    assert completion.tokens == BYTES.encode("abc\n\n")
    assert len(completion.logprobs) == 5
    assert completion.finish_reason == "stop"
    assert "\n" not in "".join(pieces)


def test_the_beginning_of_a_stop_string_that_comes_to_nothing_is_shown():
    completion, pieces = complete(says("a\nb\n\n"), stop=["\n\n"], max_new_tokens=4, chunk=1)
    assert completion.text == "a\nb\n"
    assert pieces == ["a", "\nb", "\n"]
    assert completion.finish_reason == "length"


def test_stop_strings_are_not_looked_for_in_the_prompt_or_across_its_end():
    completion, _ = complete(says("babab", prompt="ab"), "ab", stop=["ab"], max_new_tokens=5)
    assert completion.text == "b"
    completion, _ = complete(says("bcd", prompt="ab"), "ab", stop=["abb"], max_new_tokens=3)
    assert completion.text == "bcd"


def test_eos_ends_without_text():
    completion, _ = complete(says("hi", BYTES.eos_id, 65))
    assert completion.text == "hi"
    assert completion.tokens == [*BYTES.encode("hi"), BYTES.eos_id]
    assert completion.finish_reason == "eos"


def test_the_space_between_prompt_and_completion_is_the_completions():
    """In WordPiece a word has no space of its own: whether one comes first is up to the prompt."""
    tokenizer = WordPiece.train(lambda: iter(["the cat sat on the mat"] * 9), 26, True)
    script = tuple(tokenizer.encode("cat sat"))
    config = dataclasses.replace(says("").config, vocab_size=tokenizer.vocab_size)
    assert len(tokenizer.encode("the")) == 1
    [[completion]] = generate_text(
        Scripted(config, script), {}, tokenizer, ["the"], sampling=GREEDY,
        max_new_tokens=len(script),
    )  # fmt: skip
    assert completion.text == " cat sat"


def test_prompts_of_a_batch_stream_under_their_own_index():
    model = says("wxyz" * 8)
    seen: dict[tuple[int, int], str] = {}

    def show(prompt: int, sequence: int, text: str) -> None:
        seen[prompt, sequence] = seen.get((prompt, sequence), "") + text

    results = generate_text(
        model, {}, BYTES, ["a", "bcd"], sampling=GREEDY, max_new_tokens=6, num_return_sequences=2,
        stop=["zw"], on_text=show,
    )  # fmt: skip
    assert {(i, j): c.text for i, r in enumerate(results) for j, c in enumerate(r)} == seen
    assert [c.text for r in results for c in r] == ["wxy", "wxy", "y", "y"]


def test_stop_buffer_takes_the_earliest_stop_and_holds_the_longest_start():
    buffer = StopBuffer(["bcd", "cx"])
    assert buffer.push("abc") == ("a", False)
    assert buffer.push("x") == ("b", True)
    buffer = StopBuffer(["aab"])
    assert buffer.push("aa") == ("", False)
    assert buffer.push("a") == ("a", False)
    assert buffer.push("b") == ("", True)
    assert StopBuffer([]).push("anything") == ("anything", False)


def test_prompts_begin_as_documents_did_in_training():
    data = DataConfig(train={"t": Embedded()}, tokenizer=ByteTokenizer(), sequence_length=8)
    with_bos = dataclasses.replace(data, add_bos=True)
    assert encode_prompt(BYTES, "a") == encode_prompt(BYTES, "a", data) == [97]
    assert encode_prompt(BYTES, "a", with_bos) == [BYTES.bos_id, 97]
    # Never bos, of which a model that was trained without knows nothing.
    assert encode_prompt(BYTES, "", data) == [BYTES.eos_id]
    assert encode_prompt(BYTES, "", with_bos) == [BYTES.bos_id]
    one_for_both = Bytes()
    one_for_both.bos_id = one_for_both.eos_id
    assert encode_prompt(one_for_both, "a", data) == [97]


@pytest.mark.parametrize("changes", [None, {"add_eos": False}, {"segments": True}])
def test_an_empty_prompt_needs_a_token_that_began_documents(changes):
    data = DataConfig(train={"t": Embedded()}, tokenizer=ByteTokenizer(), sequence_length=8)
    used = None if changes is None else dataclasses.replace(data, **changes)
    with pytest.raises(UserError, match="the prompt is empty, and no token stood before the docu"):
        encode_prompt(BYTES, "", used)
    with pytest.raises(UserError, match="give a prompt of at least one character"):
        encode_prompt(Characters.train(["abc"]), "", data)


def test_empty_prompts_are_continued_as_documents_began():
    data = DataConfig(train={"t": Embedded()}, tokenizer=ByteTokenizer(), sequence_length=8)
    options = {"sampling": GREEDY, "max_new_tokens": 2}
    [[completion]] = generate_text(says("hi"), {}, BYTES, [""], data=data, **options)
    assert completion.text == "hi"
    with pytest.raises(UserError, match="the prompt is empty"):
        generate_text(says("hi"), {}, BYTES, [""], **options)


def test_unknown_characters_and_empty_stops_are_refused():
    characters = Characters.train(["abc"])
    model = dataclasses.replace(says("x"))
    options = {"sampling": GREEDY, "max_new_tokens": 2}
    with pytest.raises(UserError, match="é"):
        generate_text(model, {}, characters, ["aé"], **options)
    with pytest.raises(ConfigError, match="a stop string cannot be empty"):
        generate_text(model, {}, BYTES, ["a"], stop=[""], **options)
