"""Published and tiny config.json files of decoders, for the tests of their families."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lm.config import ModelConfig
from lm.convert.families import family_of_folder

LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}

# Published config.json files, as far as they matter here, and the number of parameters.
PUBLISHED: dict[str, tuple[dict[str, Any], int]] = {
    "gpt2": (
        {
            "model_type": "gpt2",
            "architectures": ["GPT2LMHeadModel"],
            "activation_function": "gelu_new",
            "attn_pdrop": 0.1,
            "embd_pdrop": 0.1,
            "initializer_range": 0.02,
            "layer_norm_epsilon": 1e-05,
            "n_ctx": 1024,
            "n_embd": 768,
            "n_head": 12,
            "n_layer": 12,
            "n_positions": 1024,
            "resid_pdrop": 0.1,
            "vocab_size": 50257,
        },
        124_439_808,
    ),
    "openai-gpt": (
        {
            "model_type": "openai-gpt",
            "architectures": ["OpenAIGPTLMHeadModel"],
            "afn": "gelu",
            "attn_pdrop": 0.1,
            "embd_pdrop": 0.1,
            "initializer_range": 0.02,
            "layer_norm_epsilon": 1e-05,
            "n_embd": 768,
            "n_head": 12,
            "n_layer": 12,
            "n_positions": 512,
            "resid_pdrop": 0.1,
            "vocab_size": 40478,
        },
        116_534_784,
    ),
    "gpt-neo-125m": (
        {
            "model_type": "gpt_neo",
            "architectures": ["GPTNeoForCausalLM"],
            "activation_function": "gelu_new",
            "attention_dropout": 0,
            "attention_types": [[["global", "local"], 6]],
            "embed_dropout": 0,
            "hidden_size": 768,
            "initializer_range": 0.02,
            "intermediate_size": None,
            "layer_norm_epsilon": 1e-05,
            "max_position_embeddings": 2048,
            "num_heads": 12,
            "num_layers": 12,
            "resid_dropout": 0,
            "vocab_size": 50257,
            "window_size": 256,
        },
        125_198_592,
    ),
    "llama-2-7b": (
        {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "hidden_act": "silu",
            "hidden_size": 4096,
            "initializer_range": 0.02,
            "intermediate_size": 11008,
            "max_position_embeddings": 4096,
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "num_key_value_heads": 32,
            "pretraining_tp": 1,
            "rms_norm_eps": 1e-05,
            "rope_scaling": None,
            "tie_word_embeddings": False,
            "vocab_size": 32000,
        },
        6_738_415_616,
    ),
    "llama-3.1-8b": (
        {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "hidden_act": "silu",
            "hidden_size": 4096,
            "initializer_range": 0.02,
            "intermediate_size": 14336,
            "max_position_embeddings": 131072,
            "mlp_bias": False,
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-05,
            "rope_scaling": LLAMA3,
            "rope_theta": 500000.0,
            "tie_word_embeddings": False,
            "vocab_size": 128256,
        },
        8_030_261_248,
    ),
    "smollm-135m": (
        {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": False,
            "hidden_act": "silu",
            "hidden_size": 576,
            "initializer_range": 0.02,
            "intermediate_size": 1536,
            "num_attention_heads": 9,
            "num_hidden_layers": 30,
            "num_key_value_heads": 3,
            "rms_norm_eps": 1e-05,
            "rope_scaling": None,
            "rope_theta": 10000.0,
            "tie_word_embeddings": True,
            "vocab_size": 49152,
        },
        134_515_008,
    ),
    "mistral-7b-v0.1": (
        {
            "model_type": "mistral",
            "architectures": ["MistralForCausalLM"],
            "hidden_act": "silu",
            "hidden_size": 4096,
            "initializer_range": 0.02,
            "intermediate_size": 14336,
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-05,
            "rope_theta": 10000.0,
            "sliding_window": 4096,
            "tie_word_embeddings": False,
            "vocab_size": 32000,
        },
        7_241_732_096,
    ),
    "qwen2-7b": (
        {
            "model_type": "qwen2",
            "architectures": ["Qwen2ForCausalLM"],
            "hidden_act": "silu",
            "hidden_size": 3584,
            "initializer_range": 0.02,
            "intermediate_size": 18944,
            "max_window_layers": 28,
            "num_attention_heads": 28,
            "num_hidden_layers": 28,
            "num_key_value_heads": 4,
            "rms_norm_eps": 1e-06,
            "rope_theta": 1000000.0,
            "sliding_window": 131072,
            "tie_word_embeddings": False,
            "use_sliding_window": False,
            "vocab_size": 152064,
        },
        7_615_616_512,
    ),
    "qwen3-0.6b": (
        {
            "model_type": "qwen3",
            "architectures": ["Qwen3ForCausalLM"],
            "attention_bias": False,
            "head_dim": 128,
            "hidden_act": "silu",
            "hidden_size": 1024,
            "initializer_range": 0.02,
            "intermediate_size": 3072,
            "max_window_layers": 28,
            "num_attention_heads": 16,
            "num_hidden_layers": 28,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-06,
            "rope_scaling": None,
            "rope_theta": 1000000,
            "sliding_window": None,
            "tie_word_embeddings": True,
            "use_sliding_window": False,
            "vocab_size": 151936,
        },
        596_049_920,
    ),
}


def published(name: str, **changes: Any) -> dict[str, Any]:
    return {**PUBLISHED[name][0], **changes}


def small(name: str, **changes: Any) -> dict[str, Any]:
    """A published config with tiny sizes."""
    sizes = {
        "gpt2": {"n_embd": 16, "n_head": 4, "n_layer": 2, "n_positions": 12, "vocab_size": 13},
        "neo": {
            "hidden_size": 16,
            "num_heads": 4,
            "num_layers": 2,
            "max_position_embeddings": 12,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 3,
            "vocab_size": 13,
        },
        "llama": {
            "hidden_size": 16,
            "num_attention_heads": 4,
            "num_hidden_layers": 2,
            "num_key_value_heads": 2,
            "intermediate_size": 24,
            "vocab_size": 13,
        },
    }
    kind = published(name)["model_type"]
    table = {"gpt2": "gpt2", "openai-gpt": "gpt2", "gpt_neo": "neo"}.get(kind, "llama")
    head = {"head_dim": 8} if kind == "qwen3" else {}
    return {**published(name), **sizes[table], **head, **changes}


SMALL: dict[str, dict[str, Any]] = {
    "gpt2": small("gpt2"),
    "gpt2 untied": small("gpt2", n_inner=24, tie_word_embeddings=False, scale_attn_weights=False),
    "gpt2 base": small("gpt2", architectures=["GPT2Model"]),
    "gpt2 classes": small(
        "gpt2", architectures=["GPT2ForSequenceClassification"], id2label={"0": "a", "1": "b"}
    ),
    "gpt2 tokens": small(
        "gpt2", architectures=["GPT2ForTokenClassification"], classifier_dropout=0.3
    ),
    "gpt2 span": small("gpt2", architectures=["GPT2ForQuestionAnswering"]),
    "gpt1": small("openai-gpt"),
    "gpt1 regression": small(
        "openai-gpt",
        architectures=["OpenAIGPTForSequenceClassification"],
        id2label={"0": "LABEL_0"},
    ),
    "neo": small("gpt-neo-125m"),
    "neo global": small("gpt-neo-125m", attention_types=[[["global"], 2]], intermediate_size=24),
    "neo classes": small("gpt-neo-125m", architectures=["GPTNeoForSequenceClassification"]),
    "llama": small("llama-3.1-8b"),
    "llama biases": small("llama-2-7b", attention_bias=True, mlp_bias=True, head_dim=6),
    "llama tied": small("smollm-135m", hidden_act="gelu_pytorch_tanh"),
    "llama base": small("llama-2-7b", architectures=["LlamaModel"]),
    "llama classes": small(
        "llama-2-7b",
        architectures=["LlamaForSequenceClassification"],
        id2label={str(i): str(i) for i in range(5)},
    ),
    "llama span": small("llama-2-7b", architectures=["LlamaForQuestionAnswering"]),
    "mistral": small("mistral-7b-v0.1", sliding_window=3),
    "mistral span": small("mistral-7b-v0.1", architectures=["MistralForQuestionAnswering"]),
    "qwen2": small("qwen2-7b"),
    "qwen2 windows": small(
        "qwen2-7b", use_sliding_window=True, sliding_window=3, max_window_layers=1
    ),
    "qwen3": small("qwen3-0.6b"),
    "qwen3 biases": small("qwen3-0.6b", attention_bias=True, tie_word_embeddings=False),
}


def read(values: Mapping[str, Any], names: Any = ()) -> ModelConfig:
    return family_of_folder(values).read_config(values, names)


def without(values: dict[str, Any], drop: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != drop}
