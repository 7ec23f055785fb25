"""A tokenizer as the files of a Hugging Face folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Library

from lm.config import DataConfig, Learned, ModelConfig
from lm.convert.pieces import library_tokenizer
from lm.data.tokenizer import Tokenizer
from lm.data.tokenizers.bpe import BYTE_TO_CHARACTER, ByteLevelBPE
from lm.data.tokenizers.huggingface import HuggingFace
from lm.data.tokenizers.sentence_piece import SentencePiece
from lm.data.tokenizers.settings import ROLES, SETTINGS, SPECIAL, set_wrap, special_names, wrap
from lm.data.tokenizers.simple import Bytes, Characters, Words
from lm.data.tokenizers.wordpiece import WordPiece
from lm.errors import UserError

# What an incoming tokenizer_config.json says that stays true of the tokenizer.json written here.
_KEPT = (
    *("additional_special_tokens", "chat_template", "clean_up_tokenization_spaces"),
    *("extra_special_tokens", "model_max_length", "padding_side", "truncation_side"),
)


def tokenizer_to_folder(
    tokenizer: Tokenizer,
    folder: Path,
    model: ModelConfig,
    data: DataConfig,
    separators: int | None = None,
) -> tuple[str, ...]:
    """Writes tokenizer.json, tokenizer_config.json and special_tokens_map.json, and SentencePiece's
    own model where that is the tokenizer, into a folder that is there. Gives the files' names.

    transformers' AutoTokenizer loads the folder, encodes to the same ids, and puts bos and eos
    around a text as `data` says; or, where an encoder's task has so many `separators`, around a
    text, and these between two (`lm.objectives.tasks.rows`).

    Raises UserError for a tokenizer that cannot be written as a tokenizer.json.
    """
    backend = library_of(tokenizer)
    names = _names(tokenizer)
    task = separators is not None and not tokenizer.wrapping[1]
    bos = _token(tokenizer, tokenizer.bos_id) if data.add_bos or task else None
    eos = _token(tokenizer, tokenizer.eos_id) if data.add_eos or task else None
    wanted = [[] if token is None else [backend.token_to_id(token)] for token in (bos, eos)]
    # What wraps a text so already may know more, of pairs of texts.
    if task:
        set_wrap(backend, bos, eos, again=False, separators=separators or 1)
    elif separators is None and (backend.post_processor is None or [*wrap(backend)] != wanted):
        set_wrap(backend, bos, eos, again="cls" not in names)
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    if isinstance(tokenizer, HuggingFace):
        settings |= {key: tokenizer.settings[key] for key in _KEPT if key in tokenizer.settings}
    settings |= {f"{role}_token": name for role, name in names.items()}
    settings.setdefault("clean_up_tokenization_spaces", False)
    if isinstance(model.position, Learned):
        settings.setdefault("model_max_length", model.position.max_length)
    inputs = ["input_ids", "attention_mask"]
    settings["model_input_names"] = [*inputs, "token_type_ids"] if model.token_types else inputs
    special = {f"{role}_token": name for role, name in names.items()}
    files = {
        "tokenizer.json": backend.to_str(pretty=True).encode(),
        SETTINGS: _json(settings),
        SPECIAL: _json(special),
    }
    if isinstance(tokenizer, SentencePiece):
        name = "tokenizer.model" if model.architecture == "decoder" else "spiece.model"
        files[name] = tokenizer.model
    for name, content in files.items():
        try:
            (folder / name).write_bytes(content)
        except OSError as error:
            raise UserError(f"cannot write {folder / name}: {error.strerror}") from None
    return tuple(files)


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _token(tokenizer: Tokenizer, token_id: int | None) -> str | None:
    return None if token_id is None else tokenizer.pieces([token_id])[0]


def _names(tokenizer: Tokenizer) -> dict[str, str]:
    """Role -> spelling of the special tokens. WordPiece's bos and eos are cls and sep."""
    if isinstance(tokenizer, HuggingFace):
        return special_names(tokenizer.backend, tokenizer.settings)
    roles = {role: role for role in ROLES}
    if isinstance(tokenizer, WordPiece):
        roles = {"cls": "bos", "sep": "eos", "pad": "pad", "unk": "unk", "mask": "mask"}
    ids = {role: getattr(tokenizer, f"{name}_id", None) for role, name in roles.items()}
    return {role: tokenizer.pieces([i])[0] for role, i in ids.items() if i is not None}


def library_of(tokenizer: Tokenizer) -> Library:
    """The tokenizer as the library's, apart from the one that encodes here. Raises UserError for
    one that the library has no means for."""
    if isinstance(tokenizer, SentencePiece):
        return library_tokenizer(tokenizer)
    if isinstance(tokenizer, Characters):
        return _characters(tokenizer)
    if isinstance(tokenizer, Bytes):
        return _byte(tokenizer)
    if isinstance(tokenizer, Words):
        return _words(tokenizer)
    if isinstance(tokenizer, (ByteLevelBPE, WordPiece, HuggingFace)):
        backend = Library.from_str(tokenizer.backend.to_str())
        if backend.decoder is None and not isinstance(tokenizer, HuggingFace):
            word = isinstance(tokenizer, WordPiece)
            backend.decoder = decoders.WordPiece(cleanup=False) if word else decoders.ByteLevel()
        return backend
    raise UserError(f"a {tokenizer.kind} tokenizer cannot be written as a tokenizer.json")


def _characters(tokenizer: Characters) -> Library:
    """Refuses unknown characters too: the model has no token for them."""
    ids = {character: i for i, character in enumerate(tokenizer.characters)}
    backend = Library(models.WordLevel(ids, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"(?m)."), behavior="isolated")
    backend.decoder = decoders.Fuse()
    return backend


def _byte(tokenizer: Bytes) -> Library:
    backend = Library(models.BPE({c: byte for byte, c in BYTE_TO_CHARACTER.items()}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    special = tokenizer.pieces(range(256, tokenizer.vocab_size))
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    return backend


def _words(tokenizer: Words) -> Library:
    """Without a decoder: then the library puts a space between words."""
    ids = {word: i for i, word in enumerate(tokenizer.pieces(range(tokenizer.vocab_size)))}
    special = tokenizer.pieces(range(tokenizer.vocab_size - len(tokenizer.words)))
    twice = [word for word in special if word in tokenizer.words]
    if twice:
        raise UserError(f"the word {twice[0]!r} of the tokenizer is spelled as a special token")
    backend = Library(models.WordLevel(ids, unk_token=special[-1]))
    # What Python takes for white space: four control characters more than the regular expression.
    space = Regex(r"[\s\x1c-\x1f]+")
    backend.pre_tokenizer = pre_tokenizers.Split(space, behavior="removed")
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    return backend
