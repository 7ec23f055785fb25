"""SentencePiece (Kudo & Richardson 2018): unigram (Kudo 2018) or BPE pieces, spaces included."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from lm.data.tokenizers.base import TokenizerBase, read_bytes, utf8
from lm.errors import ConfigError, UserError

SPACE = "\u2581"
# The generated module makes its classes when imported, where type checkers do not see them.
_PROTOCOL: Any = sentencepiece_model_pb2
# T5's sentinels: placed by an objective, never read from a document.
SENTINEL = re.compile(f"{SPACE}?<extra_id_[0-9]+>")
# The trainer drops, with no more than a note, lines with a tab or U+2047 and lines past its limit.
_LINE = re.compile("[\n\t\u2047\u2581]+")
_MAX_LINE = 4000


class SentencePiece(TokenizerBase):
    """A SentencePiece model. Not promised lossless.

    Models trained here keep all text (no normalisation, bytes for rare characters) but U+2581,
    the spelling of a space in pieces, which comes back as a space. Loaded ones do what they were
    trained to: most apply NFKC and fold runs of white space, and those without byte pieces turn
    unknown characters into the unknown token, shown as " \u2047 ".
    """

    kind = "sentencepiece"
    FILE = "tokenizer.model"

    def __init__(self, model: bytes, origin: str = "the model") -> None:
        try:
            proto = _PROTOCOL.ModelProto.FromString(model)
            for piece in proto.pieces:
                if SENTINEL.fullmatch(piece.piece):
                    piece.type = piece.UNUSED
            self._processor = sentencepiece.SentencePieceProcessor(
                model_proto=proto.SerializeToString()
            )
        except Exception as error:  # protobuf and sentencepiece raise different kinds
            reason = str(error).strip().split("\n")[0]
            raise UserError(f"{origin} is damaged, or no SentencePiece model: {reason}") from None
        self.model = model
        processor = self._processor
        self.vocab_size = processor.get_piece_size()
        if not self.vocab_size:
            raise UserError(f"{origin} is no SentencePiece model: it has no pieces")
        self.pad_id, self.bos_id, self.eos_id, self.unk_id = (
            None if i < 0 else i
            for i in (
                processor.pad_id(),
                processor.bos_id(),
                processor.eos_id(),
                processor.unk_id(),
            )
        )
        ids = range(self.vocab_size)
        self._pieces = [processor.id_to_piece(i) for i in ids]
        self._bytes = [self._bytes_of(i) for i in ids]
        self.skipped = frozenset(i for i in ids if processor.is_control(i))
        normalizer = proto.normalizer_spec
        self._folds_space = normalizer.remove_extra_whitespaces
        self._adds_space = normalizer.add_dummy_prefix
        self.fingerprint = hashlib.sha256(b"sentencepiece\0" + model).hexdigest()[:16]

    def _bytes_of(self, token_id: int) -> bytes:
        if self._processor.is_byte(token_id):
            return bytes([int(self._pieces[token_id][3:-1], 16)])
        if token_id == self.unk_id:
            return self._processor.decode([token_id]).encode()
        return self._pieces[token_id].replace(SPACE, " ").encode()

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, model_type: str) -> SentencePiece:
        """`vocab_size` tokens, among them pad 0, bos 1, eos 2, unknown 3 and 256 bytes."""
        if vocab_size < 261:
            raise ConfigError(
                f"vocab_size={vocab_size} is too small for SentencePiece: 256 bytes and 4 special "
                "tokens leave room for pieces from 261 on"
            )
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=_lines(texts),
                model_writer=model,
                model_type=model_type,
                vocab_size=vocab_size,
                byte_fallback=True,
                pad_id=0,
                bos_id=1,
                eos_id=2,
                unk_id=3,
                normalization_rule_name="identity",
                remove_extra_whitespaces=False,
                max_sentence_length=4 * _MAX_LINE,
                # Each thread sums its own share of the lines: the number is part of the result.
                num_threads=4,
                minloglevel=2,
            )
        except RuntimeError as error:
            reason = str(error).strip().split("] ", 1)[-1]
            raise ConfigError(
                f"SentencePiece could not train vocab_size={vocab_size} on these texts: {reason}"
            ) from None
        return cls(model.getvalue())

    @classmethod
    def load(cls, path: Path) -> SentencePiece:
        """From a .model, or a folder with exactly one."""
        if path.is_dir():
            found = sorted(path.glob("*.model"))
            if len(found) != 1:
                raise UserError(
                    f"{path} has {len(found)} files *.model; name the SentencePiece model itself"
                )
            path = found[0]
        return cls(read_bytes(path), str(path))

    def encode(self, text: str) -> list[int]:
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return self._processor.encode([utf8(text) for text in texts], out_type=int)

    def encode_with_spans(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        utf8(text)
        found = self._processor.encode(text, out_type="offset_mapping")
        # Of a character in bytes only the last one is said to have it.
        spans = [(begin, max(end, begin + 1)) for begin, end in found["offsets"]]
        return found["ids"], spans

    def decoder(self) -> Callable[[int], bytes]:
        started = False

        def add(token_id: int) -> bytes:
            nonlocal started
            text = self._bytes[token_id]
            if not started and not self._processor.is_byte(token_id) and token_id != self.unk_id:
                if self._folds_space:
                    # All white space before the first visible piece goes.
                    text = text.removeprefix(b" ")
                elif self._adds_space and text.startswith(b" "):
                    # One space was put before the text when it was encoded.
                    started = True
                    return text[1:]
            started = started or bool(text)
            return text

        return add

    def piece(self, token_id: int) -> str:
        return self._pieces[token_id]

    def _write(self, directory: Path) -> None:
        (directory / self.FILE).write_bytes(self.model)


def _lines(texts: Iterable[str]) -> Iterator[str]:
    """The texts as lines that the trainer accepts; long ones in parts, which only cuts a piece
    that would straddle the cut."""
    for text in texts:
        utf8(text)
        for line in _LINE.split(text):
            for start in range(0, len(line), _MAX_LINE):
                yield line[start : start + _MAX_LINE]
