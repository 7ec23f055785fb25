"""SentencePiece models of other files' vocabularies, and the same as tokenizer.json."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from lm.data.tokenizers.base import read_bytes
from lm.data.tokenizers.sentence_piece import SENTINEL, SPACE, SentencePiece
from lm.errors import UserError

# The kinds of pieces, numbered alike in SentencePiece's and in GGUF's files.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
UNIGRAM, BPE = 1, 2
_NEVER = -1e4
# The generated module makes its classes when imported, where type checkers do not see them.
PROTOCOL: Any = sentencepiece_model_pb2


class Piece(NamedTuple):
    text: str
    score: float
    kind: int


def model_bytes(
    pieces: Iterable[Piece],
    special: Mapping[str, int | None],
    *,
    add_space: bool = True,
    fold_spaces: bool = False,
) -> bytes:
    """A SentencePiece model of type BPE without normalisation, bytes for rare characters.

    `special`: the ids of "unk", "bos", "eos" and "pad".
    """
    proto = PROTOCOL.ModelProto()
    for text, score, kind in pieces:
        proto.pieces.add(piece=text, score=score, type=kind)
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    trainer.model_type = trainer.BPE
    trainer.vocab_size = len(proto.pieces)
    trainer.byte_fallback = any(piece.type == BYTE for piece in proto.pieces)
    for name in ("unk", "bos", "eos", "pad"):
        token_id = special.get(name)
        setattr(trainer, f"{name}_id", -1 if token_id is None else token_id)
        if token_id is not None:
            # The library finds the ids by these spellings.
            setattr(trainer, f"{name}_piece", proto.pieces[token_id].piece)
    normalizer.name = "identity"
    normalizer.add_dummy_prefix = add_space
    normalizer.remove_extra_whitespaces = fold_spaces
    return proto.SerializeToString()


def read_llama2c(path: Path, vocab_size: int) -> bytes:
    """The SentencePiece model of llama2.c's tokenizer file: the longest token's length, then for
    every token its score, its length and its bytes, with spaces for U+2581.

    Raises UserError for a file that is damaged, or has not `vocab_size` tokens.
    """
    data = read_bytes(path)
    pieces: list[Piece] = []
    place = 4
    try:
        while place < len(data):
            score, length = struct.unpack_from("<fi", data, place)
            place += 8
            if not 0 <= length <= len(data) - place:
                raise UserError(f"{path} is cut off, or no tokenizer file of llama2.c")
            text = data[place : place + length].decode("utf-8").replace(" ", SPACE)
            pieces.append(Piece(text, score, NORMAL))
            place += length
    except (struct.error, UnicodeDecodeError):
        raise UserError(f"{path} is cut off, or no tokenizer file of llama2.c") from None
    if len(pieces) != vocab_size:
        raise UserError(f"{path} has {len(pieces)} tokens, the model's vocab_size is {vocab_size}")
    if vocab_size < 3 or pieces[0].text != "<unk>":
        raise UserError(f"{path}: token 0 is not <unk>; is this a tokenizer file of llama2.c?")
    for token_id, text, kind in ((0, "<unk>", UNKNOWN), (1, "<s>", CONTROL), (2, "</s>", CONTROL)):
        pieces[token_id] = Piece(text, 0.0, kind)
    pieces[3:] = [p._replace(kind=BYTE) if is_byte(p.text) else p for p in pieces[3:]]
    return model_bytes(pieces, {"unk": 0, "bos": 1, "eos": 2})


def is_byte(piece: str) -> bool:
    """Whether a piece is spelled <0x00> to <0xFF>."""
    digits = piece[3:-1]
    return piece == f"<0x{digits}>" and len(digits) == 2 and set(digits) <= {*"0123456789ABCDEF"}


def with_sentinels(model: bytes, count: int) -> bytes:
    """T5's <extra_id_...> on top of its pieces, the last number first; a model that has some stays
    as it is."""
    proto = PROTOCOL.ModelProto.FromString(model)
    if any(SENTINEL.fullmatch(piece.piece) for piece in proto.pieces):
        return model
    for number in reversed(range(count)):
        proto.pieces.add(piece=f"<extra_id_{number}>", score=0.0, type=USER_DEFINED)
    return proto.SerializeToString()


def with_added(model: bytes, added: Mapping[str, int], where: str) -> bytes:
    """A model with more tokens on top, never read from a text. UserError where ids leave gaps."""
    proto = PROTOCOL.ModelProto.FromString(model)
    new = {token: i for token, i in added.items() if i >= len(proto.pieces)}
    for token in sorted(new, key=new.__getitem__):
        if new[token] != len(proto.pieces):
            raise UserError(
                f"{where}: the added token {token!r} has the id {new[token]}, "
                f"but {len(proto.pieces)} is the next after the model's pieces"
            )
        proto.pieces.add(piece=token, score=0.0, type=CONTROL)
    return proto.SerializeToString() if new else model


def renumbered(model: bytes, ids: Mapping[str, int], languages: Sequence[str], where: str) -> bytes:
    """fairseq's pair of a SentencePiece model, which splits, and a vocabulary, which numbers, as
    one model; `languages` are tokens on top.

    Raises UserError where the numbers have gaps, or pieces have none.
    """
    proto = PROTOCOL.ModelProto.FromString(model)
    known = {piece.piece: piece for piece in proto.pieces}
    if sorted(ids.values()) != list(range(len(ids))):
        raise UserError(f"{where}: the ids of vocab.json are not 0 to {len(ids) - 1}")
    lost = [p.piece for p in proto.pieces if p.type == NORMAL and p.piece not in ids]
    if lost:
        raise UserError(
            f"{where}: {len(lost)} pieces of the SentencePiece model are not in vocab.json, "
            f"the first of them {lost[0]!r}; such a pair is not supported"
        )
    kinds = {"<unk>": UNKNOWN, "<s>": CONTROL, "</s>": CONTROL, "<pad>": CONTROL}
    del proto.pieces[:]
    for text in sorted(ids, key=ids.__getitem__):
        piece = known.get(text)
        kind = kinds.get(text, piece.type if piece else UNUSED)
        proto.pieces.add(piece=text, score=piece.score if piece else 0.0, type=kind)
    for text in languages:
        proto.pieces.add(piece=text, score=0.0, type=CONTROL)
    for name, text in (("unk", "<unk>"), ("bos", "<s>"), ("eos", "</s>"), ("pad", "<pad>")):
        setattr(proto.trainer_spec, f"{name}_id", ids.get(text, -1))
        setattr(proto.trainer_spec, f"{name}_piece", text)
    return proto.SerializeToString()


def library_tokenizer(tokenizer: SentencePiece) -> tokenizers.Tokenizer:
    """The tokenizer.json that encodes as a SentencePiece model does.

    Raises UserError for a model of words or characters.
    """
    proto = PROTOCOL.ModelProto.FromString(tokenizer.model)
    kind = proto.trainer_spec.model_type
    if kind not in (UNIGRAM, BPE):
        raise UserError(
            "a SentencePiece model of words or characters cannot be written as a tokenizer.json"
        )
    backend = tokenizers.Tokenizer(_unigram(proto) if kind == UNIGRAM else _bpe(proto))
    spec = proto.normalizer_spec
    steps: list[Any] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        # Spaces only: the map above made them of all other white space.
        steps.append(normalizers.Replace(Regex("^ +| +$"), ""))
        steps.append(normalizers.Replace(Regex(" {2,}"), " "))
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(SPACE))
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    ends: list[Any] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if spec.add_dummy_prefix:
        ends.append(decoders.Strip(content=" ", left=1, right=0))
    backend.decoder = decoders.Sequence(ends)
    special = [p for p in proto.pieces if p.type in (UNKNOWN, CONTROL) or _sentinel(p)]
    backend.add_special_tokens([AddedToken(p.piece, special=True) for p in special])
    return backend


def xlnet_tokenizer(model: bytes, lowercase: bool) -> tokenizers.Tokenizer:
    """XLNet's, which takes quotation marks together and accents off before it looks for pieces."""
    proto = PROTOCOL.ModelProto.FromString(model)
    backend = tokenizers.Tokenizer(
        models.Unigram([(p.piece, p.score) for p in proto.pieces], _unknown(proto))
    )
    steps: list[Any] = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    steps += [normalizers.NFKD(), normalizers.StripAccents()]
    if lowercase:
        steps.append(normalizers.Lowercase())
    if proto.normalizer_spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap))
    backend.normalizer = normalizers.Sequence(steps)
    signs = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always")
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), signs])
    backend.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="always")
    return backend


def _sentinel(piece: Any) -> bool:
    return SENTINEL.fullmatch(piece.piece) is not None


def _unknown(proto: Any) -> int:
    # By its kind: the number among the settings is not always right.
    return next(i for i, piece in enumerate(proto.pieces) if piece.type == UNKNOWN)


def _unigram(proto: Any) -> models.Unigram:
    best = max((p.score for p in proto.pieces if p.type == NORMAL), default=0.0)
    vocabulary = []
    for piece in proto.pieces:
        score = piece.score
        if piece.type == USER_DEFINED:
            # What SentencePiece counts it, so that it is always chosen.
            score = len(piece.piece.encode()) * best - 0.1
        elif piece.type == BYTE:
            # A text that spells <0x0A> has no such byte. (The library can only make it unlikely:
            # where one of these characters is unknown, it is the byte after all.)
            score = _NEVER
        vocabulary.append((piece.piece, score))
    return models.Unigram(vocabulary, _unknown(proto), proto.trainer_spec.byte_fallback)


def _bpe(proto: Any) -> models.BPE:
    """The merges: every two pieces that make a third, the third with the best score first."""
    ids = {p.piece: i for i, p in enumerate(proto.pieces)}
    mergeable = {p.piece for p in proto.pieces if p.type in (NORMAL, USER_DEFINED)}
    order = sorted(mergeable, key=lambda text: (-proto.pieces[ids[text]].score, ids[text]))
    merges = [
        (text[:place], text[place:])
        for text in order
        for place in range(1, len(text))
        if text[:place] in mergeable and text[place:] in mergeable
    ]
    unknown = proto.pieces[_unknown(proto)].piece
    return models.BPE(
        ids,
        merges,
        unk_token=unknown,
        fuse_unk=True,
        byte_fallback=proto.trainer_spec.byte_fallback,
    )
