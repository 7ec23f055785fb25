"""The files beside a tokenizer.json that say which tokens are special, and what wraps a text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, processors

from lm.data.tokenizers.base import read_json, read_text
from lm.errors import UserError

SETTINGS = "tokenizer_config.json"
SPECIAL = "special_tokens_map.json"
ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")

_BERT = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
_ROBERTA = {
    "bos": "<s>",
    "eos": "</s>",
    "sep": "</s>",
    "cls": "<s>",
    "unk": "<unk>",
    "pad": "<pad>",
    "mask": "<mask>",
}
_XLNET = {**_ROBERTA, "sep": "<sep>", "cls": "<cls>"}
# What the classes of transformers take where a folder does not say.
_DEFAULTS: dict[str, dict[str, str]] = {
    "Bert": _BERT,
    "DistilBert": _BERT,
    "Electra": _BERT,
    "Roberta": _ROBERTA,
    "Bart": _ROBERTA,
    "XLNet": _XLNET,
    "T5": {"eos": "</s>", "unk": "<unk>", "pad": "<pad>"},
    "Llama": {"bos": "<s>", "eos": "</s>", "unk": "<unk>"},
    "GPT2": dict.fromkeys(("bos", "eos", "unk"), "<|endoftext|>"),
    "Qwen2": dict.fromkeys(("eos", "unk", "pad"), "<|endoftext|>"),
    "OpenAIGPT": {"unk": "<unk>"},
    "M2M100": {"bos": "<s>", "eos": "</s>", "sep": "</s>", "unk": "<unk>", "pad": "<pad>"},
}
# config.json's model_type, where no tokenizer class is named.
_CLASSES = {
    "bert": "Bert",
    "electra": "Bert",
    "distilbert": "Bert",
    "roberta": "Roberta",
    "bart": "Roberta",
    "xlnet": "XLNet",
    "t5": "T5",
    "mt5": "T5",
    "llama": "Llama",
    "gpt2": "GPT2",
    "gpt_neo": "GPT2",
    "qwen2": "Qwen2",
    "qwen3": "Qwen2",
    "openai-gpt": "OpenAIGPT",
    "m2m_100": "M2M100",
    "marian": "Marian",
    "xlm-roberta": "XLMRoberta",
    "camembert": "Camembert",
}
# Classes that wrap a text in their own way, whatever add_bos_token and add_eos_token say.
_OWN_WRAP = ("Bert", "DistilBert", "Electra", "Roberta", "Bart", "XLNet", "T5")
# The special tokens of a tokenizer.json that comes alone, the more telling spellings first.
_KNOWN = {
    "bos": ("<s>", "<|begin_of_text|>", "<|endoftext|>"),
    "eos": ("</s>", "<|end_of_text|>", "<|endoftext|>"),
    "unk": ("<unk>", "[UNK]"),
    "sep": ("[SEP]", "<sep>"),
    "pad": ("<pad>", "[PAD]", "<|padding|>"),
    "cls": ("[CLS]", "<cls>"),
    "mask": ("<mask>", "[MASK]"),
}


def read_settings(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json, with what special_tokens_map.json, config.json and the defaults of
    the named class add. {} where the folder has none of these files.

    Raises UserError where one of them is damaged.
    """
    settings = _object(folder / SETTINGS)
    special = _object(folder / SPECIAL)
    for name, value in special.items():
        settings.setdefault(name, value)
    kind = tokenizer_class(settings, folder)
    if kind:
        settings["tokenizer_class"] = f"{kind}Tokenizer"
    for role, spelling in _DEFAULTS.get(kind, {}).items():
        settings.setdefault(f"{role}_token", spelling)
    template = folder / "chat_template.jinja"
    if template.is_file():
        settings.setdefault("chat_template", read_text(template))
    return settings


def tokenizer_class(settings: Mapping[str, Any], folder: Path) -> str:
    """The class a folder names, "T5" for T5TokenizerFast, or that of its model type; or ""."""
    name = settings.get("tokenizer_class")
    if isinstance(name, str) and not name.startswith(("PreTrained", "TokenizersBackend")):
        return name.removesuffix("Fast").removesuffix("Tokenizer")
    return "" if name else _CLASSES.get(str(_object(folder / "config.json").get("model_type")), "")


def spelling(value: Any) -> str | None:
    """A special token as the files write it: its text, or an object that has it."""
    content = value.get("content") if isinstance(value, Mapping) else value
    return content if isinstance(content, str) and content else None


def special_names(backend: tokenizers.Tokenizer, settings: Mapping[str, Any]) -> dict[str, str]:
    """Role -> spelling of the special tokens; guessed from well-known ones without settings."""
    if any(f"{role}_token" in settings for role in ROLES):
        named = {role: spelling(settings.get(f"{role}_token")) or "" for role in ROLES}
        known = backend.get_vocab(with_added_tokens=True)
        return {role: name for role, name in named.items() if name in known}
    special = {t.content for t in backend.get_added_tokens_decoder().values() if t.special}
    found = {role: next((n for n in _KNOWN[role] if n in special), None) for role in ROLES}
    return {role: name for role, name in found.items() if name}


def add_named(backend: tokenizers.Tokenizer, settings: Mapping[str, Any], folder: Path) -> None:
    """Makes the settings' tokens part of a tokenizer that lacks them, as transformers does.

    A default of a class that the vocabulary has no token for is left out.
    """
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    added: dict[str, AddedToken] = {}
    listed = settings.get("added_tokens_decoder") or {}
    for _, value in sorted(listed.items(), key=lambda item: int(item[0])):
        flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
        kept = {name: bool(value[name]) for name in flags if name in value}
        added[value["content"]] = AddedToken(value["content"], **kept)
    said = {**_object(folder / SPECIAL), **_object(folder / SETTINGS)}
    for name in (f"{role}_token" for role in ROLES):
        content = spelling(settings.get(name))
        if content and (name in said or backend.token_to_id(content) is not None):
            added.setdefault(content, _special(settings[name], content))
    for name in ("additional_special_tokens", "extra_special_tokens"):
        values = settings.get(name) or []
        for value in values.values() if isinstance(values, Mapping) else values:
            if content := spelling(value):
                added.setdefault(content, _special(value, content))
    backend.add_tokens([token for content, token in added.items() if content not in known])


def _special(value: Any, content: str) -> AddedToken:
    flags = value if isinstance(value, Mapping) else {}
    kept = {name: bool(flags.get(name)) for name in ("single_word", "lstrip", "rstrip")}
    return AddedToken(content, special=True, normalized=bool(flags.get("normalized")), **kept)


def apply_wrap(backend: tokenizers.Tokenizer, settings: Mapping[str, Any]) -> None:
    """add_bos_token and add_eos_token, where the settings have them, decide what wraps a text."""
    explicit = "add_bos_token" in settings or "add_eos_token" in settings
    kind = str(settings.get("tokenizer_class", "")).removesuffix("Tokenizer")
    if explicit and kind not in _OWN_WRAP:
        names = special_names(backend, settings)
        bos = names.get("bos") if settings.get("add_bos_token") else None
        eos = names.get("eos") if settings.get("add_eos_token") else None
        set_wrap(backend, bos, eos)


def set_wrap(
    backend: tokenizers.Tokenizer,
    bos: str | None,
    eos: str | None,
    *,
    again: bool = True,
    separators: int = 1,
) -> None:
    """A post-processor that puts these tokens around every text, and with `again` the first one
    before the second of two texts too; `separators` of the last one stand between two."""
    before, after = [bos] if bos else [], [eos] if eos else []
    second = [f"{token}:1" for token in before if again]
    pair = [*before, "$A", *after * separators, *second, "$B:1", *(f"{token}:1" for token in after)]
    backend.post_processor = processors.TemplateProcessing(
        single=[*before, "$A", *after],
        pair=pair,
        special_tokens=[(t, backend.token_to_id(t)) for t in dict.fromkeys([*before, *after])],
    )


def wrap(backend: tokenizers.Tokenizer) -> tuple[list[int], list[int]]:
    """The ids that the post-processor puts before and after one text."""
    encoding = backend.encode("a b")
    special = encoding.special_tokens_mask
    length = len(special)
    before = next((n for n in range(length) if not special[n]), length)
    after = next((n for n in range(length - before) if not special[length - 1 - n]), 0)
    return encoding.ids[:before], encoding.ids[length - after :]


def _object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    values = read_json(path)
    if not isinstance(values, dict):
        raise UserError(f"{path} is not a JSON object")
    return values
