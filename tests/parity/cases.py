"""What is compared: tiny models of every family, in the words of transformers, and their inputs.

No torch and no JAX here. Widths differ from each other wherever a family allows it, so that a
transposed or exchanged axis cannot fit by accident.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

# What goes in, what comes out, and what the loss is:
#   causal       a decoder's next token            masked   the token under a mask
#   pretraining  BERT's two: masked, next sentence replaced which tokens are not the original
#   permuted     XLNet: in the order of a permutation       seq2seq  the target, given the source
#   sequence, next, choice   one answer a sequence          token, span   one a token
Task = Literal[
    "causal", "masked", "pretraining", "replaced", "permuted", "seq2seq",
    "sequence", "next", "choice", "token", "span",
]  # fmt: skip

HEADS: tuple[Task, ...] = ("sequence", "next", "choice", "token", "span")

VOCABULARY = 31
LABELS = 3
CHOICES = 2
# Smaller ids are the special tokens of one family or another.
FIRST_TOKEN = 4
IGNORED = -100


@dataclass(frozen=True)
class Case:
    """One model: `model` names its class in transformers, whose config takes `config`.

    `row`: the family in the table. `generation`: greedy generation is compared too, with
    weights of this seed, under which the reference's choices are clear and varied. `untied`: the
    output layer has weights of its own (T5 v1.1), and config.json says so as the published files
    do, or as transformers 5 writes it. `silenced`: the reference is an encoder-decoder whose
    cross-attention adds 0, and only its decoder is compared (the nearest public relative of LaMDA).
    """

    name: str
    row: str
    model: str
    task: Task
    config: Mapping[str, Any] = field(hash=False)
    generation: int | None = None
    untied: Literal["published", "resaved"] | None = None
    silenced: bool = False

    @property
    def pad_id(self) -> int:
        return int(self.config.get("pad_token_id") or 0)


def _gpt2(**more: Any) -> dict[str, Any]:
    sizes = dict(vocab_size=VOCABULARY, n_positions=40, n_embd=24, n_layer=2, n_head=4, n_inner=40)
    off = dict(embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0)
    return {**sizes, **off, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, **more}


def _openai(**more: Any) -> dict[str, Any]:
    sizes = dict(vocab_size=VOCABULARY, n_positions=40, n_embd=24, n_layer=2, n_head=4)
    off = dict(embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0)
    return {**sizes, **off, **more}


def _llama(**more: Any) -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 64,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        **more,
    }


def _bert(**more: Any) -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 20,
        "type_vocab_size": 2,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "pad_token_id": 0,
        **more,
    }


def _roberta(**more: Any) -> dict[str, Any]:
    special = dict(pad_token_id=1, bos_token_id=0, eos_token_id=2)
    return _bert(type_vocab_size=1, max_position_embeddings=22, **special, **more)


def _electra(**more: Any) -> dict[str, Any]:
    return _bert(embedding_size=16, summary_last_dropout=0.0, **more)


def _xlnet(**more: Any) -> dict[str, Any]:
    sizes = dict(vocab_size=VOCABULARY, d_model=24, n_layer=2, n_head=4, d_inner=40)
    return {**sizes, "dropout": 0.0, "summary_last_dropout": 0.0, "pad_token_id": 0, **more}


def _t5(**more: Any) -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "d_model": 24,
        "d_kv": 8,
        "d_ff": 40,
        # The cache of transformers has as many layers as the encoder: it must not be the shorter.
        "num_layers": 3,
        "num_decoder_layers": 2,
        "num_heads": 4,
        "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 10,
        "dropout_rate": 0.0,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": 1,
        **more,
    }


def _bart(**more: Any) -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "d_model": 24,
        "encoder_layers": 2,
        "decoder_layers": 3,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 40,
        "decoder_ffn_dim": 40,
        "max_position_embeddings": 40,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "encoder_layerdrop": 0.0,
        "decoder_layerdrop": 0.0,
        "decoder_start_token_id": 2,
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "forced_eos_token_id": None,
        **more,
    }


def _heads(row: str, make: Any, prefix: str, *kinds: Task, **more: Any) -> list[Case]:
    """The classification heads that transformers has for a family."""
    classes = {
        "sequence": "SequenceClassification",
        "token": "TokenClassification",
        "span": "QuestionAnswering",
        "choice": "MultipleChoice",
        "next": "NextSentencePrediction",
    }
    counts = {"sequence": LABELS, "token": LABELS, "span": 2}
    cases = []
    for kind in kinds:
        config = make(**({"num_labels": counts[kind]} if kind in counts else {}), **more)
        model = f"{prefix}For{classes[kind]}"
        # XLNet's other class for questions has a beam search of its own.
        model += "Simple" if model == "XLNetForQuestionAnswering" else ""
        cases.append(Case(f"{row}-{kind}", row, model, kind, config))
    return cases


_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    # Of a head's four frequencies one stays, one is blended and two are divided.
    "original_max_position_embeddings": 64,
}
_LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}

CASES: tuple[Case, ...] = (
    Case("gpt2", "gpt2", "GPT2LMHeadModel", "causal", _gpt2(), generation=1),
    *_heads("gpt2", _gpt2, "GPT2", "sequence"),
    Case("openai-gpt", "openai-gpt", "OpenAIGPTLMHeadModel", "causal", _openai(), generation=2),
    Case(
        "gpt-neo", "gpt-neo (for GPT-3)", "GPTNeoForCausalLM", "causal",
        dict(
            vocab_size=VOCABULARY, max_position_embeddings=40, hidden_size=24, num_layers=4,
            num_heads=4, intermediate_size=40, attention_types=[[["global", "local"], 2]],
            window_size=4, resid_dropout=0.0, embed_dropout=0.0, attention_dropout=0.0,
            bos_token_id=1, eos_token_id=2, pad_token_id=0,
        ),
        generation=0,
    ),
    Case("llama", "llama", "LlamaForCausalLM", "causal", _llama(), generation=2),
    Case(
        "llama3", "llama", "LlamaForCausalLM", "causal",
        _llama(num_key_value_heads=2, head_dim=8, rope_parameters=_LLAMA3), generation=2,
    ),
    Case(
        "llama-linear", "llama", "LlamaForCausalLM", "causal",
        _llama(num_key_value_heads=1, rope_parameters=_LINEAR, attention_bias=True, mlp_bias=True),
    ),
    *_heads("llama", _llama, "Llama", "sequence", num_key_value_heads=2),
    Case(
        "smollm", "smollm", "LlamaForCausalLM", "causal",
        _llama(num_attention_heads=3, num_key_value_heads=1, tie_word_embeddings=True),
        generation=0,
    ),
    Case(
        "mistral", "mistral", "MistralForCausalLM", "causal",
        _llama(num_key_value_heads=2, sliding_window=5), generation=0,
    ),
    Case(
        "qwen2", "qwen2", "Qwen2ForCausalLM", "causal",
        _llama(num_key_value_heads=2, tie_word_embeddings=True), generation=1,
    ),
    Case(
        "qwen3", "qwen3", "Qwen3ForCausalLM", "causal",
        _llama(num_key_value_heads=2, head_dim=8), generation=0,
    ),
    Case(
        "lamda", "t5 decoder (for LaMDA)", "T5ForConditionalGeneration", "causal",
        _t5(feed_forward_proj="gated-gelu"), untied="published", silenced=True, generation=1,
    ),
    Case("bert", "bert", "BertForPreTraining", "pretraining", _bert()),
    *_heads("bert", _bert, "Bert", "sequence", "token", "span", "choice", "next"),
    Case("roberta", "roberta", "RobertaForMaskedLM", "masked", _roberta()),
    *_heads("roberta", _roberta, "Roberta", "sequence", "token", "span", "choice"),
    Case("electra-generator", "electra", "ElectraForMaskedLM", "masked", _electra()),
    Case("electra", "electra", "ElectraForPreTraining", "replaced", _electra()),
    *_heads("electra", _electra, "Electra", "sequence", "token", "span", "choice"),
    Case("xlnet", "xlnet", "XLNetLMHeadModel", "permuted", _xlnet(mem_len=5)),
    Case("xlnet-clamped", "xlnet", "XLNetLMHeadModel", "permuted", _xlnet(mem_len=5, clamp_len=4)),
    *_heads("xlnet", _xlnet, "XLNet", "sequence", "token", "span", "choice"),
    Case("t5", "t5 v1.0", "T5ForConditionalGeneration", "seq2seq", _t5(), generation=30),
    Case(
        "t5-v1.1", "t5 v1.1", "T5ForConditionalGeneration", "seq2seq",
        _t5(feed_forward_proj="gated-gelu"), untied="published", generation=25,
    ),
    Case(
        "t5-v1.1-resaved", "t5 v1.1", "T5ForConditionalGeneration", "seq2seq",
        _t5(feed_forward_proj="gated-gelu", tie_word_embeddings=False), untied="resaved",
    ),
    Case("bart", "bart", "BartForConditionalGeneration", "seq2seq", _bart(), generation=19),
    *_heads("bart", _bart, "Bart", "sequence"),
    Case(
        "m2m-100", "m2m_100", "M2M100ForConditionalGeneration", "seq2seq",
        _bart(scale_embedding=True, activation_function="relu"), generation=16,
    ),
    Case(
        "marian", "marian (for the Transformer)", "MarianMTModel", "seq2seq",
        _bart(
            scale_embedding=True, activation_function="relu", decoder_vocab_size=VOCABULARY,
            decoder_start_token_id=3,
        ),
        generation=39,
    ),
    Case(
        "marian-separate", "marian (for the Transformer)", "MarianMTModel", "seq2seq",
        _bart(
            scale_embedding=True, activation_function="silu", vocab_size=37,
            decoder_vocab_size=VOCABULARY, decoder_start_token_id=3,
            share_encoder_decoder_embeddings=False,
        ),
        generation=34,
    ),
)  # fmt: skip

Inputs = dict[str, np.ndarray]


def batches(case: Case) -> dict[str, Inputs]:
    """The arguments of the reference's forward pass, by the name of the batch: three rows of
    different lengths, at most 7, padded on the right, and one full row of 13 tokens, which XLNet
    reads after a memory. Heads see the first alone: what is below them is compared without."""
    padded = _batch(case, np.random.default_rng(2), [7, 4, 6])
    if case.task in HEADS:
        return {"padded": padded}
    full = _batch(case, np.random.default_rng(1), [13])
    if case.task == "permuted":
        rng = np.random.default_rng(3)
        shape = (int(case.config["n_layer"]), 3, 1, int(case.config["d_model"]))
        full["mems"] = rng.normal(size=shape).astype(np.float32)
    return {"full": full, "padded": padded}


def prompts(case: Case) -> list[list[int]]:
    """What greedy generation goes on from: a decoder's prompts, or sources."""
    rng = np.random.default_rng(4)
    # T5 starts every target with this token.
    start = [case.config["decoder_start_token_id"]] if case.silenced else []
    return [[*start, *_tokens(case, rng, (n,)).tolist()] for n in (5, 3, 8)]


NEW_TOKENS = 12

# One step of AdamW. With the usual epsilon the first step is the gradient's sign, which is noise
# wherever the true gradient is 0 (key biases); with this one it is a smooth function of it.
LEARNING_RATE, BETAS, EPSILON, DECAY = 0.05, (0.9, 0.98), 0.1, 0.1


def _tokens(case: Case, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Ordinary tokens. None is the pad token: torch keeps no gradient of its embedding."""
    return rng.integers(FIRST_TOKEN, VOCABULARY, shape)


def _padded(
    case: Case, rng: np.random.Generator, lengths: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Random rows of the given lengths and which tokens are real; XLNet pads on the left."""
    mask = np.arange(max(lengths)) < np.asarray(lengths)[:, None]
    if case.row == "xlnet":
        mask = mask[:, ::-1]
    tokens = np.where(mask, _tokens(case, rng, mask.shape), case.pad_id)
    return tokens, mask


def _only(mask: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.where(mask, labels, IGNORED)


def _batch(case: Case, rng: np.random.Generator, lengths: list[int]) -> Inputs:
    if case.task == "choice":
        lengths = [n - i for n in lengths for i in range(CHOICES)]
    tokens, mask = _padded(case, rng, lengths)
    inputs = {"input_ids": tokens, "attention_mask": mask.astype(np.int64)}
    rows, length = tokens.shape
    if case.config.get("type_vocab_size") == 2 or case.row == "xlnet":
        inputs["token_type_ids"] = ((np.cumsum(mask, axis=1) > 2) & mask).astype(np.int64)
    masked = mask & ((np.arange(length) + np.arange(rows)[:, None]) % 3 == 1)
    match case.task:
        case "causal":
            inputs["labels"] = _only(mask, tokens)
        case "masked" | "pretraining":
            inputs["labels"] = _only(masked, _tokens(case, rng, tokens.shape))
            if case.task == "pretraining":
                inputs["next_sentence_label"] = rng.integers(0, 2, rows)
        case "replaced":
            inputs["labels"] = (masked & mask).astype(np.int64)
        case "permuted":
            _permute(inputs, rng)
        case "seq2seq":
            target, seen = _padded(case, rng, [n + 2 for n in reversed(lengths)])
            start = np.full((rows, 1), case.config["decoder_start_token_id"])
            inputs["decoder_input_ids"] = np.concatenate([start, target[:, :-1]], axis=1)
            inputs["decoder_attention_mask"] = seen.astype(np.int64)
            inputs["labels"] = _only(seen, target)
        case "sequence":
            if case.row == "bart":
                # Its head reads the last end-of-sequence token; every row has one.
                last = np.asarray(lengths) - 1
                tokens[np.arange(rows), last] = case.config["eos_token_id"]
            inputs["labels"] = rng.integers(0, LABELS, rows)
        case "next":
            inputs["labels"] = rng.integers(0, 2, rows)
        case "choice":
            inputs = {name: x.reshape(-1, CHOICES, length) for name, x in inputs.items()}
            inputs["labels"] = rng.integers(0, CHOICES, rows // CHOICES)
        case "token":
            inputs["labels"] = _only(mask, rng.integers(0, LABELS, tokens.shape))
        case "span":
            first = np.argmax(mask, axis=1)
            inputs["start_positions"] = first + rng.integers(0, 2, rows)
            inputs["end_positions"] = first + rng.integers(2, 4, rows)
    return inputs


def _permute(inputs: Inputs, rng: np.random.Generator) -> None:
    """XLNet's factorisation order: a token sees those earlier in a random order; the last two of
    every row's real tokens in that order are predicted."""
    mask = inputs["attention_mask"]
    rows, length = mask.shape
    rank = np.where(mask, rng.permuted(np.tile(np.arange(length), (rows, 1)), axis=1), -1)
    inputs["perm_mask"] = (rank[:, :, None] <= rank[:, None, :]).astype(np.float32)
    targets = np.argsort(rank, axis=1)[:, -2:]
    inputs["target_mapping"] = np.eye(length, dtype=np.float32)[targets]
    inputs["labels"] = np.take_along_axis(inputs["input_ids"], targets, axis=1)
