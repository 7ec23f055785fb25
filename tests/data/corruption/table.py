"""The table of corruption: what the papers state, and what comes out over 100,000 tokens and more.

python -m tests.data.corruption.table       (make corruption-table)

The text is the documentation inside Python, in rows of 512 WordPiece tokens (of which 15 % are 77,
so 15.04 %; a row with a single span of mean length 64 has all 77 in it). The tests beside this
file hold the same numbers to within five standard errors.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lm.config import ReplacedTokens, WordPieceTokenizer
from lm.data import embedded
from lm.data.corruption import denoising, masking, pairs, permutation, spans
from lm.data.corruption.vocabulary import Vocabulary, vocabulary_of, with_mask, with_sentinels
from lm.data.corruption.words import word_ids
from lm.data.tokenizer import build_tokenizer

LENGTH, ROWS = 512, 256
Line = tuple[str, str, str, str]


def text() -> tuple[np.ndarray, Vocabulary]:
    """Rows int32 [ROWS, LENGTH] of running text, and their vocabulary."""
    texts = list(itertools.islice(embedded.texts(), 400))
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = build_tokenizer(
            WordPieceTokenizer(vocab_size=2000),
            data_root=Path(folder),
            cache_dir=Path(folder),
            texts=lambda: iter(texts),
            texts_fingerprint="table",
        )
    tokens = np.concatenate([np.asarray(ids) for ids in tokenizer.encode_batch(texts)])
    return tokens[: ROWS * LENGTH].reshape(ROWS, LENGTH).astype(np.int32), vocabulary_of(tokenizer)


def percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def stretches(chosen: np.ndarray) -> np.ndarray:
    """Lengths of the runs of True in a row."""
    edges = np.flatnonzero(np.diff(np.pad(chosen, 1).astype(int)))
    return edges[1::2] - edges[0::2]


def masked(rows: np.ndarray, v: Vocabulary, **settings: Any) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    done = [masking.mask_tokens(row, v, rng, **settings) for row in rows]
    return {name: np.stack([row[name] for row in done]) for name in done[0]}


def masks(rows: np.ndarray, v: Vocabulary) -> Iterator[Line]:
    done = masked(rows, v)
    chosen = done["weights"] > 0
    now, was = done["tokens"][chosen], done["targets"][chosen]
    yield "BERT", "tokens chosen", "15 %", percent(chosen.mean())
    yield "", "of them [MASK]", "80 %", percent((now == v.mask_id).mean())
    ordinary = 1 / (~v.special).sum()
    other = ((now != v.mask_id) & (now != was)).mean() / (1 - ordinary)
    yield "", "a random token", "10 %", percent(other)
    yield "", "as it was", "10 %", percent(1 - (now == v.mask_id).mean() - other)
    again = masked(rows[::-1], v)["weights"][::-1] > 0
    yield "RoBERTa", "chosen at both of two readings", "15 % of them", percent(again[chosen].mean())
    words = masked(rows, v, selection="whole_words")["weights"] > 0
    split = sum(
        0 < picked[ids == word].mean() < 1
        for row, picked in zip(rows, words)
        for ids in [word_ids(row, v)]
        for word in np.unique(ids[picked])
    )
    yield "whole words", "tokens chosen", "15 %", percent(words.mean())
    yield "", "words masked in part", "0", str(split)
    # Words of one token in one long row, and few spans: so that they seldom meet, or are cut.
    single = np.flatnonzero(v.starts_word & ~v.special)
    plain = np.random.default_rng(1).choice(single, (1, 16 * rows.size)).astype(np.int32)
    lengths = stretches(masked(plain, v, selection="spans", rate=0.01)["weights"][0] > 0)
    span = masked(rows, v, selection="spans")["weights"] > 0
    yield "SpanBERT", "tokens chosen", "15 %", percent(span.mean())
    yield "", "mean words of a span", "3.8", f"{lengths.mean():.2f}"
    defaults = ReplacedTokens.__dataclass_fields__
    share = {name: defaults[name].default for name in ("rate", "mask_share", "random_share")}
    done = masked(rows, v, **share)
    chosen = done["weights"] > 0
    yield "ELECTRA", "tokens chosen", "15 %", percent(chosen.mean())
    hidden = (done["tokens"][chosen] == v.mask_id).mean()
    yield "", "of them [MASK]", "85 % (released code)", percent(hidden)


def two_texts(rows: np.ndarray, v: Vocabulary) -> Iterator[Line]:
    rng = np.random.default_rng(0)

    def other(rng: np.random.Generator) -> np.ndarray:
        return rows[rng.integers(len(rows))]

    many = [row for row in rows for _ in range(8)]
    following = [pairs.next_sentence(row, other, v, rng, length=128)["is_next"] for row in many]
    ordered = [pairs.sentence_order(row, v, rng, length=128)["is_next"] for row in many]
    yield "BERT", "pairs that follow each other", "50 %", percent(float(np.mean(following)))
    yield "ALBERT", "pairs in order", "50 %", percent(float(np.mean(ordered)))


def sequences(rows: np.ndarray, v: Vocabulary) -> Iterator[Line]:
    rng = np.random.default_rng(0)
    names = [f"UL2 {d.mode}" for d in spans.UL2]
    for name, d in [("T5", spans.Denoiser("R", 0.15, 3.0)), *zip(names, spans.UL2)]:
        if d.mode == "S":
            after = [len(row) - spans.split_point(len(row), rng, d.density) for row in rows]
            share = float(np.mean(after)) / LENGTH
            yield name, "tokens after the prefix", percent(d.density), percent(share)
            continue
        dropped = [
            spans.noise_spans(LENGTH, rng, density=d.density, mean_length=d.mean_length)
            for _ in rows
        ]
        lengths = np.concatenate([stretches(row) for row in dropped])
        yield name, "tokens dropped", percent(d.density), percent(float(np.mean(dropped)))
        yield "", "mean span", f"{d.mean_length:g}", f"{lengths.mean():.2f}"
    v = with_mask(v, v.size + 1) if v.mask_id is None else v
    # Each word a token, so that a mask's text is what lies between its neighbours.
    lost = masks = 0
    for row in rows:
        source = denoising.infill(row, v, rng, whole_words=False)
        count = int((source == v.mask_id).sum())
        lost, masks = lost + len(row) - (len(source) - count), masks + count
    yield "BART", "tokens in spans", "30 %", percent(lost / rows.size)
    yield "", "mean span, empty ones too", "3", f"{lost / masks:.2f}"


def orders(rows: np.ndarray, v: Vocabulary) -> Iterator[Line]:
    rng = np.random.default_rng(0)
    done = [permutation.permute(row, v, rng) for row in rows]
    share = float(np.mean([row["predicted"].mean() for row in done]))
    yield "XLNet", "tokens predicted", "1 in 6 (85 of 512)", f"1 in {1 / share:.2f}"


def main() -> None:
    rows, v = text()
    v = with_sentinels(v, 200, v.size + 200)
    print(f"{rows.size:,} tokens\n")
    print(f"| {'':11} | {'':44} | {'stated':20} | {'measured':10} |\n|---|---|---|---|")
    for part in (masks, two_texts, sequences, orders):
        for who, what, stated, measured in part(rows, v):
            print(f"| {who:11} | {what:44} | {stated:20} | {measured:10} |")


if __name__ == "__main__":
    main()
