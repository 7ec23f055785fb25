"""The config.json of a Hugging Face folder that is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from lm.config import Config, Learned, XLNetRelative
from lm.convert.families import Family
from lm.convert.families.common import ONE_LABEL, SEVERAL_LABELS
from lm.data.tokenizer import Tokenizer

Dtype = Literal["float32", "float16", "bfloat16"]
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def reference_config(
    config: Config,
    family: Family,
    origin: Mapping[str, Any],
    tokenizer: Tokenizer,
    dtype: Dtype,
) -> dict[str, Any]:
    """config.json: what the family says of the model, and of what the model does not say (token
    ids, the longest sequence) what the config.json that it came from said, or else this run."""
    written = family.write_config(config.model)
    values: dict[str, Any] = {}
    # XLNet knows no longest sequence: its config refuses to be told one.
    if not isinstance(config.model.position, (Learned, XLNetRelative)):
        values["max_position_embeddings"] = config.data.sequence_length
    for name in _TOKENS:
        token = getattr(tokenizer, name.replace("_token", ""))
        if token is not None:
            values[name] = token
    if origin.get("family") == family.name:
        own = origin["config"]
        # As another kind of the family (llama for qwen2), its other keys would mean something else.
        same = own.get("model_type") == written["model_type"]
        values.update(own if same else {k: own[k] for k in (*values, *_TOKENS) if k in own})
    before = dict(values)
    values.update(written)
    values.update(_labels(config, before, written))
    # Both spellings: transformers 5 says dtype, everything before it torch_dtype.
    values.update(dtype=dtype, torch_dtype=dtype)
    return values


def _labels(
    config: Config, before: Mapping[str, Any], written: Mapping[str, Any]
) -> dict[str, Any]:
    """The names of a classifier's labels, and whether a text has several: the model only knows how
    many there are, the task or the config.json that it came from knows more."""
    count = len(written.get("id2label", ()))
    names = getattr(config.objective, "labels", ())
    found: dict[str, Any] = {}
    if count and len(names) == count:
        found["id2label"] = {str(i): name for i, name in enumerate(names)}
        found["label2id"] = {name: i for i, name in enumerate(names)}
    elif count and len(before.get("id2label") or ()) == count:
        found = {key: before[key] for key in ("id2label", "label2id") if key in before}
    if written.get("problem_type") == ONE_LABEL:
        several = before.get("problem_type") == SEVERAL_LABELS
        if getattr(config.objective, "multi_label", several):
            found["problem_type"] = SEVERAL_LABELS
    return found


def generation_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """generation_config.json: where generation starts and stops."""
    names = (*_TOKENS, "decoder_start_token_id")
    known = {name: values[name] for name in names if values.get(name) is not None}
    return {"_from_model_config": True, **known}
