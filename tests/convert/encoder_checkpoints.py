"""What the reference has of encoders and encoder-decoders: published config.json files, and the
names and shapes of every class's tensors (transformers 5.23)."""

from __future__ import annotations

import itertools
import re
from typing import Any

# Published config.json files, as far as they matter here, and the number of trained parameters in
# them; with the bias of the logits, which BART and Marian do not train, and without the tables of
# sines that Marian's files hold.
PUBLISHED: dict[str, tuple[dict[str, Any], int]] = {
    "bert-base-uncased": (
        {
            "model_type": "bert",
            "architectures": ["BertForPreTraining"],
            "attention_probs_dropout_prob": 0.1,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.1,
            "hidden_size": 768,
            "initializer_range": 0.02,
            "intermediate_size": 3072,
            "layer_norm_eps": 1e-12,
            "max_position_embeddings": 512,
            "num_attention_heads": 12,
            "num_hidden_layers": 12,
            "pad_token_id": 0,
            "type_vocab_size": 2,
            "vocab_size": 30522,
        },
        110_106_428,
    ),
    "roberta-base": (
        {
            "model_type": "roberta",
            "architectures": ["RobertaForMaskedLM"],
            "attention_probs_dropout_prob": 0.1,
            "bos_token_id": 0,
            "eos_token_id": 2,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.1,
            "hidden_size": 768,
            "initializer_range": 0.02,
            "intermediate_size": 3072,
            "layer_norm_eps": 1e-05,
            "max_position_embeddings": 514,
            "num_attention_heads": 12,
            "num_hidden_layers": 12,
            "pad_token_id": 1,
            "type_vocab_size": 1,
            "vocab_size": 50265,
        },
        124_697_433,
    ),
    "electra-small-discriminator": (
        {
            "model_type": "electra",
            "architectures": ["ElectraForPreTraining"],
            "attention_probs_dropout_prob": 0.1,
            "embedding_size": 128,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.1,
            "hidden_size": 256,
            "initializer_range": 0.02,
            "intermediate_size": 1024,
            "layer_norm_eps": 1e-12,
            "max_position_embeddings": 512,
            "num_attention_heads": 4,
            "num_hidden_layers": 12,
            "summary_activation": "gelu",
            "summary_last_dropout": 0.1,
            "summary_type": "first",
            "summary_use_proj": True,
            "type_vocab_size": 2,
            "vocab_size": 30522,
        },
        13_549_057,
    ),
    "electra-base-generator": (
        {
            "model_type": "electra",
            "architectures": ["ElectraForMaskedLM"],
            "attention_probs_dropout_prob": 0.1,
            "embedding_size": 768,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.1,
            "hidden_size": 256,
            "initializer_range": 0.02,
            "intermediate_size": 1024,
            "layer_norm_eps": 1e-12,
            "max_position_embeddings": 512,
            "num_attention_heads": 4,
            "num_hidden_layers": 12,
            "type_vocab_size": 2,
            "vocab_size": 30522,
        },
        33_740_602,
    ),
    "xlnet-base-cased": (
        {
            "model_type": "xlnet",
            "architectures": ["XLNetLMHeadModel"],
            "attn_type": "bi",
            "bi_data": False,
            "clamp_len": -1,
            "d_head": 64,
            "d_inner": 3072,
            "d_model": 768,
            "dropout": 0.1,
            "ff_activation": "gelu",
            "initializer_range": 0.02,
            "layer_norm_eps": 1e-12,
            "mem_len": None,
            "n_head": 12,
            "n_layer": 12,
            "reuse_len": None,
            "same_length": False,
            "summary_activation": "tanh",
            "summary_last_dropout": 0.1,
            "summary_type": "last",
            "summary_use_proj": True,
            "untie_r": True,
            "vocab_size": 32000,
        },
        116_750_336,
    ),
    "t5-small": (
        {
            "model_type": "t5",
            "architectures": ["T5ForConditionalGeneration"],
            "d_ff": 2048,
            "d_kv": 64,
            "d_model": 512,
            "decoder_start_token_id": 0,
            "dropout_rate": 0.1,
            "eos_token_id": 1,
            "initializer_factor": 1.0,
            "is_encoder_decoder": True,
            "layer_norm_epsilon": 1e-06,
            "num_heads": 8,
            "num_layers": 6,
            "pad_token_id": 0,
            "relative_attention_num_buckets": 32,
            "vocab_size": 32128,
        },
        60_506_624,
    ),
    "t5-v1_1-small": (
        {
            "model_type": "t5",
            "architectures": ["T5ForConditionalGeneration"],
            "d_ff": 1024,
            "d_kv": 64,
            "d_model": 512,
            "decoder_start_token_id": 0,
            "dropout_rate": 0.1,
            "eos_token_id": 1,
            "feed_forward_proj": "gated-gelu",
            "is_encoder_decoder": True,
            "layer_norm_epsilon": 1e-06,
            "num_decoder_layers": 8,
            "num_heads": 6,
            "num_layers": 8,
            "pad_token_id": 0,
            "relative_attention_num_buckets": 32,
            "tie_word_embeddings": False,
            "vocab_size": 32128,
        },
        76_961_152,
    ),
    "bart-large": (
        {
            "model_type": "bart",
            "architectures": ["BartForConditionalGeneration"],
            "activation_dropout": 0.1,
            "activation_function": "gelu",
            "attention_dropout": 0.1,
            "classifier_dropout": 0.0,
            "d_model": 1024,
            "decoder_attention_heads": 16,
            "decoder_ffn_dim": 4096,
            "decoder_layers": 12,
            "decoder_start_token_id": 2,
            "dropout": 0.1,
            "encoder_attention_heads": 16,
            "encoder_ffn_dim": 4096,
            "encoder_layers": 12,
            "init_std": 0.02,
            "is_encoder_decoder": True,
            "max_position_embeddings": 1024,
            "scale_embedding": False,
            "vocab_size": 50265,
        },
        406_291_456 + 50_265,
    ),
    "m2m100_418M": (
        {
            "model_type": "m2m_100",
            "architectures": ["M2M100ForConditionalGeneration"],
            "activation_dropout": 0.0,
            "activation_function": "relu",
            "attention_dropout": 0.1,
            "d_model": 1024,
            "decoder_attention_heads": 16,
            "decoder_ffn_dim": 4096,
            "decoder_layerdrop": 0.05,
            "decoder_layers": 12,
            "decoder_start_token_id": 2,
            "dropout": 0.1,
            "encoder_attention_heads": 16,
            "encoder_ffn_dim": 4096,
            "encoder_layerdrop": 0.05,
            "encoder_layers": 12,
            "init_std": 0.02,
            "is_encoder_decoder": True,
            "max_position_embeddings": 1024,
            "pad_token_id": 1,
            "scale_embedding": True,
            "vocab_size": 128112,
        },
        483_905_536,
    ),
    "opus-mt-en-de": (
        {
            "model_type": "marian",
            "architectures": ["MarianMTModel"],
            "activation_dropout": 0.0,
            "activation_function": "swish",
            "attention_dropout": 0.0,
            "d_model": 512,
            "decoder_attention_heads": 8,
            "decoder_ffn_dim": 2048,
            "decoder_layers": 6,
            "decoder_start_token_id": 58100,
            "dropout": 0.1,
            "encoder_attention_heads": 8,
            "encoder_ffn_dim": 2048,
            "encoder_layers": 6,
            "init_std": 0.02,
            "is_encoder_decoder": True,
            "max_position_embeddings": 512,
            "pad_token_id": 58100,
            "scale_embedding": True,
            "static_position_embeddings": True,
            "vocab_size": 58101,
        },
        73_886_208 + 58_101,
    ),
}

SIZES: dict[str, dict[str, Any]] = {
    "bert": {
        "hidden_size": 8,
        "intermediate_size": 12,
        "max_position_embeddings": 16,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "vocab_size": 13,
    },
    "xlnet": {
        "d_head": 4,
        "d_inner": 12,
        "d_model": 8,
        "n_head": 2,
        "n_layer": 1,
        "vocab_size": 13,
    },
    "t5": {
        "d_ff": 12,
        "d_kv": 3,
        "d_model": 8,
        "num_decoder_layers": 1,
        "num_heads": 2,
        "num_layers": 1,
        "vocab_size": 13,
    },
    "bart": {
        "d_model": 8,
        "decoder_attention_heads": 2,
        "decoder_ffn_dim": 12,
        "decoder_layers": 1,
        "decoder_start_token_id": 1,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 12,
        "encoder_layers": 1,
        "max_position_embeddings": 16,
        "pad_token_id": 1,
        "vocab_size": 13,
    },
}
TABLE = {"roberta": "bert", "electra": "bert", "m2m_100": "bart", "marian": "bart", "mt5": "t5"}


def published(name: str, **changes: Any) -> dict[str, Any]:
    return {**PUBLISHED[name][0], **changes}


def small(name: str, kind: str | None = None, **changes: Any) -> dict[str, Any]:
    """A published config with tiny sizes, of another class where `kind` names one."""
    values = published(name)
    table = TABLE.get(values["model_type"], values["model_type"])
    size = {**SIZES[table], **({"embedding_size": 4} if values["model_type"] == "electra" else {})}
    named = {} if kind is None else {"architectures": [kind]}
    return {**values, **size, **named, **changes}


THREE = {"id2label": {"0": "a", "1": "b", "2": "c"}}
# The tensors of the reference's base models of the sizes above (embeddings of 4 in ELECTRA), in
# transformers 5.23, "{a,b}" standing for both names and "@" for the base model's prefix.
BERT_LAYER = """
    8x8 @encoder.layer.0.attention.{self.query,self.key,self.value,output.dense}.weight
    8 @encoder.layer.0.attention.{self.query,self.key,self.value,output.dense}.bias
    8 @encoder.layer.0.{attention.output,output}.LayerNorm.{weight,bias}
    12x8 @encoder.layer.0.intermediate.dense.weight
    12 @encoder.layer.0.intermediate.dense.bias
    8x12 @encoder.layer.0.output.dense.weight
    8 @encoder.layer.0.output.dense.bias
"""
BERT = f"""
    13x8 @embeddings.word_embeddings.weight
    16x8 @embeddings.position_embeddings.weight
    2x8 @embeddings.token_type_embeddings.weight
    8 @embeddings.LayerNorm.{{weight,bias}}
    {BERT_LAYER}
"""
ROBERTA = BERT.replace("2x8 @embeddings.token_type", "1x8 @embeddings.token_type")
ELECTRA = f"""
    13x4 @embeddings.word_embeddings.weight
    16x4 @embeddings.position_embeddings.weight
    2x4 @embeddings.token_type_embeddings.weight
    4 @embeddings.LayerNorm.{{weight,bias}}
    8x4 @embeddings_project.weight
    8 @embeddings_project.bias
    {BERT_LAYER}
"""
POOLER = """
    8x8 @pooler.dense.weight
    8 @pooler.dense.bias
"""
XLNET = """
    13x8 @word_embedding.weight
    1x1x8 @mask_emb
    8x2x4 @layer.0.rel_attn.{q,k,v,o,r}
    2x4 @layer.0.rel_attn.{r_w_bias,r_r_bias,r_s_bias}
    2x2x4 @layer.0.rel_attn.seg_embed
    8 @layer.0.{rel_attn,ff}.layer_norm.{weight,bias}
    12x8 @layer.0.ff.layer_1.weight
    12 @layer.0.ff.layer_1.bias
    8x12 @layer.0.ff.layer_2.weight
    8 @layer.0.ff.layer_2.bias
"""
T5_ENCODER = """
    13x8 shared.weight
    6x8 encoder.block.0.layer.0.SelfAttention.{q,k,v}.weight
    8x6 encoder.block.0.layer.0.SelfAttention.o.weight
    32x2 encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight
    12x8 encoder.block.0.layer.1.DenseReluDense.wi.weight
    8x12 encoder.block.0.layer.1.DenseReluDense.wo.weight
    8 encoder.block.0.layer.{0,1}.layer_norm.weight
    8 encoder.final_layer_norm.weight
"""
T5 = f"""
    {T5_ENCODER}
    6x8 decoder.block.0.layer.{{0.SelfAttention,1.EncDecAttention}}.{{q,k,v}}.weight
    8x6 decoder.block.0.layer.{{0.SelfAttention,1.EncDecAttention}}.o.weight
    32x2 decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight
    12x8 decoder.block.0.layer.2.DenseReluDense.wi.weight
    8x12 decoder.block.0.layer.2.DenseReluDense.wo.weight
    8 decoder.block.0.layer.{{0,1,2}}.layer_norm.weight
    8 decoder.final_layer_norm.weight
"""
GATED_T5 = T5.replace("DenseReluDense.wi.", "DenseReluDense.{wi_0,wi_1}.")
STACKS = """
    8x8 @{encoder,decoder}.layers.0.self_attn.{q_proj,k_proj,v_proj,out_proj}.weight
    8 @{encoder,decoder}.layers.0.self_attn.{q_proj,k_proj,v_proj,out_proj}.bias
    8x8 @decoder.layers.0.encoder_attn.{q_proj,k_proj,v_proj,out_proj}.weight
    8 @decoder.layers.0.encoder_attn.{q_proj,k_proj,v_proj,out_proj}.bias
    12x8 @{encoder,decoder}.layers.0.fc1.weight
    12 @{encoder,decoder}.layers.0.fc1.bias
    8x12 @{encoder,decoder}.layers.0.fc2.weight
    8 @{encoder,decoder}.layers.0.fc2.bias
    8 @{encoder,decoder}.layers.0.{self_attn_layer_norm,final_layer_norm}.{weight,bias}
    8 @decoder.layers.0.encoder_attn_layer_norm.{weight,bias}
"""
MARIAN = f"""
    13x8 @shared.weight
    {STACKS}
"""
BART = f"""
    {MARIAN}
    18x8 @{{encoder,decoder}}.embed_positions.weight
    8 @{{encoder,decoder}}.layernorm_embedding.{{weight,bias}}
"""
M2M100 = f"""
    {MARIAN}
    8 @{{encoder,decoder}}.layer_norm.{{weight,bias}}
"""
BERT_LM = """
    8x8 cls.predictions.transform.dense.weight
    8 cls.predictions.transform.dense.bias
    8 cls.predictions.transform.LayerNorm.{weight,bias}
    13 cls.predictions.bias
"""
NEXT = """
    2x8 cls.seq_relationship.weight
    2 cls.seq_relationship.bias
"""


def projection(name: str, outputs: int) -> str:
    return f"""
    {outputs}x8 {name}.weight
    {outputs} {name}.bias
    """


# The config, the base model's prefix, and the tensors.
CLASSES: dict[str, tuple[dict[str, Any], str, str]] = {
    "BertModel": (small("bert-base-uncased", "BertModel"), "", BERT + POOLER),
    "BertForPreTraining": (small("bert-base-uncased"), "bert.", BERT + POOLER + BERT_LM + NEXT),
    "BertForMaskedLM": (small("bert-base-uncased", "BertForMaskedLM"), "bert.", BERT + BERT_LM),
    "BertForNextSentencePrediction": (
        small("bert-base-uncased", "BertForNextSentencePrediction"),
        "bert.",
        BERT + POOLER + NEXT,
    ),
    "BertForSequenceClassification": (
        small("bert-base-uncased", "BertForSequenceClassification", **THREE),
        "bert.",
        BERT + POOLER + projection("classifier", 3),
    ),
    "BertForTokenClassification": (
        small("bert-base-uncased", "BertForTokenClassification", **THREE),
        "bert.",
        BERT + projection("classifier", 3),
    ),
    "BertForQuestionAnswering": (
        small("bert-base-uncased", "BertForQuestionAnswering"),
        "bert.",
        BERT + projection("qa_outputs", 2),
    ),
    "BertForMultipleChoice": (
        small("bert-base-uncased", "BertForMultipleChoice"),
        "bert.",
        BERT + POOLER + projection("classifier", 1),
    ),
    "RobertaModel": (small("roberta-base", "RobertaModel"), "", ROBERTA + POOLER),
    "RobertaForMaskedLM": (
        small("roberta-base"),
        "roberta.",
        ROBERTA
        + projection("lm_head.dense", 8)
        + """
        8 lm_head.layer_norm.{weight,bias}
        13 lm_head.bias
        """,
    ),
    "RobertaForSequenceClassification": (
        small("roberta-base", "RobertaForSequenceClassification"),
        "roberta.",
        ROBERTA + projection("classifier.dense", 8) + projection("classifier.out_proj", 2),
    ),
    "RobertaForTokenClassification": (
        small("roberta-base", "RobertaForTokenClassification"),
        "roberta.",
        ROBERTA + projection("classifier", 2),
    ),
    "RobertaForQuestionAnswering": (
        small("roberta-base", "RobertaForQuestionAnswering"),
        "roberta.",
        ROBERTA + projection("qa_outputs", 2),
    ),
    "RobertaForMultipleChoice": (
        small("roberta-base", "RobertaForMultipleChoice"),
        "roberta.",
        ROBERTA + POOLER + projection("classifier", 1),
    ),
    "ElectraModel": (small("electra-small-discriminator", "ElectraModel"), "", ELECTRA),
    "ElectraForPreTraining": (
        small("electra-small-discriminator"),
        "electra.",
        ELECTRA
        + projection("discriminator_predictions.dense", 8)
        + projection("discriminator_predictions.dense_prediction", 1),
    ),
    "ElectraForMaskedLM": (
        small("electra-base-generator"),
        "electra.",
        ELECTRA
        + projection("generator_predictions.dense", 4)
        + """
        4 generator_predictions.LayerNorm.{weight,bias}
        13 generator_lm_head.bias
        """,
    ),
    "ElectraForSequenceClassification": (
        small("electra-small-discriminator", "ElectraForSequenceClassification"),
        "electra.",
        ELECTRA + projection("classifier.dense", 8) + projection("classifier.out_proj", 2),
    ),
    "ElectraForTokenClassification": (
        small("electra-small-discriminator", "ElectraForTokenClassification"),
        "electra.",
        ELECTRA + projection("classifier", 2),
    ),
    "ElectraForQuestionAnswering": (
        small("electra-small-discriminator", "ElectraForQuestionAnswering"),
        "electra.",
        ELECTRA + projection("qa_outputs", 2),
    ),
    "ElectraForMultipleChoice": (
        small("electra-small-discriminator", "ElectraForMultipleChoice"),
        "electra.",
        ELECTRA + projection("sequence_summary.summary", 8) + projection("classifier", 1),
    ),
    "XLNetModel": (small("xlnet-base-cased", "XLNetModel"), "", XLNET),
    "XLNetLMHeadModel": (small("xlnet-base-cased"), "transformer.", XLNET + "13 lm_loss.bias"),
    "XLNetForSequenceClassification": (
        small("xlnet-base-cased", "XLNetForSequenceClassification"),
        "transformer.",
        XLNET + projection("sequence_summary.summary", 8) + projection("logits_proj", 2),
    ),
    "XLNetForTokenClassification": (
        small("xlnet-base-cased", "XLNetForTokenClassification"),
        "transformer.",
        XLNET + projection("classifier", 2),
    ),
    "XLNetForQuestionAnsweringSimple": (
        small("xlnet-base-cased", "XLNetForQuestionAnsweringSimple"),
        "transformer.",
        XLNET + projection("qa_outputs", 2),
    ),
    "XLNetForMultipleChoice": (
        small("xlnet-base-cased", "XLNetForMultipleChoice"),
        "transformer.",
        XLNET + projection("sequence_summary.summary", 8) + projection("logits_proj", 1),
    ),
    "T5ForConditionalGeneration": (small("t5-small"), "", T5),
    "T5ForConditionalGeneration v1.1": (
        small("t5-v1_1-small"),
        "",
        GATED_T5 + "13x8 lm_head.weight",
    ),
    "T5Model": (small("t5-small", "T5Model"), "", T5),
    "T5EncoderModel": (small("t5-small", "T5EncoderModel"), "", T5_ENCODER),
    "BartModel": (small("bart-large", "BartModel"), "", BART),
    "BartForConditionalGeneration": (
        small("bart-large"),
        "model.",
        BART + "1x13 final_logits_bias",
    ),
    "BartForSequenceClassification": (
        small("bart-large", "BartForSequenceClassification", **THREE),
        "model.",
        BART
        + projection("classification_head.dense", 8)
        + projection("classification_head.out_proj", 3),
    ),
    "M2M100Model": (small("m2m100_418M", "M2M100Model"), "", M2M100),
    "M2M100ForConditionalGeneration": (small("m2m100_418M"), "model.", M2M100),
    "MarianModel": (small("opus-mt-en-de", "MarianModel"), "", MARIAN),
    "MarianMTModel": (small("opus-mt-en-de"), "model.", MARIAN + "1x13 final_logits_bias"),
    "MarianMTModel of two vocabularies": (
        small("opus-mt-en-de", decoder_vocab_size=11, share_encoder_decoder_embeddings=False),
        "model.",
        STACKS
        + """
        13x8 @encoder.embed_tokens.weight
        11x8 @decoder.embed_tokens.weight
        1x11 final_logits_bias
        """,
    ),
}


def expanded(line: str) -> list[str]:
    """All that a line with {a,b} stands for."""
    pieces = re.split(r"\{([^}]*)\}", line)
    choices = [piece.split(",") if i % 2 else [piece] for i, piece in enumerate(pieces)]
    return ["".join(choice) for choice in itertools.product(*choices)]


def tensors(name: str) -> dict[str, tuple[int, ...]]:
    """The tensors that the reference writes for a class, with their shapes."""
    _, prefix, text = CLASSES[name]
    found = {}
    for line in text.split("\n"):
        if line.strip():
            shape, pattern = line.split()
            for tensor in expanded(pattern):
                found[tensor.replace("@", prefix)] = tuple(map(int, shape.split("x")))
    return found
