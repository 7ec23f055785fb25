"""Cleaning of documents before tokenising: pure, streaming, and counted."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lm.config import CleanConfig

# Those that end a line or a page, where dropping them would join two words.
_BREAK = re.compile(r"\r(?!\n)|[\x0b\x0c\x85]")
# Category Cc without tab and newline.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass
class CleanCounts:
    """What cleaning saw and did. `characters` and `bytes` (UTF-8) are those of the documents kept;
    `characters_normalized` are characters of the input that normalisation replaced or composed."""

    documents_read: int = 0
    documents: int = 0
    empty: int = 0
    duplicates: int = 0
    characters_read: int = 0
    characters: int = 0
    bytes: int = 0
    characters_normalized: int = 0
    control_characters_removed: int = 0

    def as_dict(self) -> dict[str, int]:
        return dataclasses.asdict(self)


def clean(
    documents: Iterable[dict[str, str]], config: CleanConfig, counts: CleanCounts
) -> Iterator[dict[str, str]]:
    """The documents worth keeping, cleaned field by field; adds to `counts` as it goes.

    A document of which a field is empty or white space only is dropped. A duplicate is a document
    equal, after cleaning, to an earlier one in all fields.
    """
    seen: set[bytes] = set()
    for document in documents:
        counts.documents_read += 1
        counts.characters_read += sum(map(len, document.values()))
        document = {name: clean_text(text, config, counts) for name, text in document.items()}
        if any(not text or text.isspace() for text in document.values()):
            counts.empty += 1
            continue
        encoded = [text.encode("utf-8") for text in document.values()]
        if config.deduplicate:
            digest = hashlib.blake2b(digest_size=16)
            for text in encoded:
                digest.update(len(text).to_bytes(8, "little") + text)
            if digest.digest() in seen:
                counts.duplicates += 1
                continue
            seen.add(digest.digest())
        counts.documents += 1
        counts.characters += sum(map(len, document.values()))
        counts.bytes += sum(map(len, encoded))
        yield document


def clean_text(text: str, config: CleanConfig, counts: CleanCounts) -> str:
    """One string: Unicode normalisation, then control characters. "\\r\\n" loses one; a lone "\\r",
    vertical tab, form feed and next line (U+0085) become "\\n"."""
    if config.normalization != "none":
        normal = unicodedata.normalize(config.normalization, text)
        if normal != text:
            counts.characters_normalized += (Counter(text) - Counter(normal)).total()
            text = normal
    if config.control_characters == "remove":
        text, replaced = _BREAK.subn("\n", text)
        text, removed = _CONTROL.subn("", text)
        counts.control_characters_removed += replaced + removed
    return text
