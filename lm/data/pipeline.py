"""The way in: a `DataConfig` to batches, each a pure function of the seed and the step."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lm import config as configs
from lm.config import DataConfig, Source
from lm.data.packing import BinPlan, PairPlan, Plan, StreamPlan
from lm.data.rows import (
    Mixture,
    NumberedRows,
    PairMaker,
    RowMaker,
    Rows,
    seed_of,
    share,
    stack,
)
from lm.data.store import DocumentStore, document_store
from lm.data.tokenizer import Tokenizer, build_tokenizer
from lm.data.tokens import TokenStore, texts, token_store
from lm.data.validation import ValidationSplit
from lm.errors import EXIT_PREEMPTED, ConfigError, UserError
from lm.types import Features

# Steps that an iterator can serve: no run gets there.
_FOREVER = 1 << 60
# Readings of one source in an epoch that deserve a note.
_MANY_PASSES = 10


def prepare_dataset(
    config: DataConfig,
    *,
    vocab_size: int | None,
    make_rows: Callable[[Tokenizer], RowMaker],
    seed: int,
    data_root: Path,
    cache_dir: Path,
    tokenizer: Tokenizer | None = None,
) -> Dataset:
    """Reads, cleans, tokenises and plans; what the cache has is not made again.

    `make_rows` is the objective's. `tokenizer` is the one of a run that goes on;
    without it one is built from the training sources. `vocab_size` is the model's, if there is one.
    Errors name the source: UserError for missing, damaged or too little data, ConfigError for
    settings that do not go together.
    """
    if not config.train:
        raise ConfigError("data.train names no source: there is nothing to train on")
    documents = _documents(config, data_root, cache_dir)
    if tokenizer is None:
        tokenizer = _tokenizer(config, documents, data_root, cache_dir)
    check_vocabulary(tokenizer, vocab_size)
    maker = make_rows(tokenizer)
    if isinstance(maker, PairMaker) and config.packing == "first_fit":
        if maker.packed is None:
            raise ConfigError(
                "data.packing='first_fit' puts several pairs into a row, which is for an "
                "encoder-decoder: set data.packing='none'"
            )
        maker = maker.packed

    def part(split: str, name: str, source: Source) -> Part:
        with named(split, name):
            store = token_store(
                documents[split, name], source.fraction, tokenizer, add_bos=config.add_bos,
                add_eos=config.add_eos, cache_dir=cache_dir, name=name,
            )  # fmt: skip
            own_seed = seed_of(seed, name)
            plan = _plan(config, store, maker, own_seed, training=split == "train")
            if isinstance(plan, PairPlan):
                _note_too_long(f"data.{split}.{name}", plan)
            rows = Rows(plan, store, maker, own_seed)
        return Part(
            rows=rows,
            fingerprint=store.fingerprint,
            positions=plan.positions,
            report=_report(documents[split, name], rows),
            split=ValidationSplit.of(rows, add_bos=config.add_bos),
        )

    train = {name: part("train", name, source) for name, source in sorted(config.train.items())}
    validation = {name: part("validation", name, s) for name, s in config.validation.items()}
    return Dataset(config, tokenizer, train, validation)


def check_vocabulary(tokenizer: Tokenizer, vocab_size: int | None) -> None:
    """Raises ConfigError where the model's vocabulary, if there is one, is too small."""
    if vocab_size is not None and tokenizer.vocab_size > vocab_size:
        raise ConfigError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model's vocab_size is "
            f"{vocab_size}: set model.vocab_size to at least {tokenizer.vocab_size}"
        )


@contextlib.contextmanager
def named(split: str, name: str) -> Iterator[None]:
    """Puts the source's name before what a UserError says."""
    try:
        yield
    except UserError as error:
        # The error itself, with what its class holds; that of being told to stop is not the data's.
        if error.exit_code != EXIT_PREEMPTED:
            error.args = (f"data.{split}.{name}: {error}",)
        raise


def _documents(
    config: DataConfig, data_root: Path, cache_dir: Path
) -> dict[tuple[str, str], DocumentStore]:
    """The store of each (split, name)."""
    found: dict[tuple[str, str], DocumentStore] = {}
    # Parts of one corpus (train and validation) are hashed and opened once.
    wholes: dict[Source, DocumentStore] = {}
    for split, sources in (("train", config.train), ("validation", config.validation)):
        for name, source in sources.items():
            whole = dataclasses.replace(source, weight=1.0, fraction=(0.0, 1.0))
            if whole not in wholes:
                with named(split, name):
                    wholes[whole] = document_store(whole, data_root, cache_dir)
            found[split, name] = wholes[whole]
    return found


def _tokenizer(
    config: DataConfig,
    documents: Mapping[tuple[str, str], DocumentStore],
    data_root: Path,
    cache_dir: Path,
) -> Tokenizer:
    parts = [(documents["train", name], s.fraction) for name, s in sorted(config.train.items())]
    return build_tokenizer(
        config.tokenizer,
        data_root=data_root,
        cache_dir=cache_dir,
        texts=lambda: itertools.chain.from_iterable(texts(*part) for part in parts),
        texts_fingerprint=configs.fingerprint([[d.fingerprint, list(f)] for d, f in parts]),
    )


def _plan(
    config: DataConfig, store: TokenStore, maker: RowMaker, seed: tuple[int, int], *, training: bool
) -> Plan:
    shuffle = config.shuffle and training
    length, lookahead = maker.positions, maker.lookahead
    paired = "target" in store.fields
    if paired != isinstance(maker, PairMaker):
        raise ConfigError(
            "the source has targets, and the objective takes none"
            if paired
            else "the objective takes pairs of texts, and the source has no targets"
        )
    if isinstance(maker, PairMaker):
        return PairPlan(
            store.lengths, fit=maker.fit, room=maker.room, too_long=config.too_long,
            shuffle=shuffle, seed=seed, capacity=maker.capacity,
        )  # fmt: skip
    if config.packing == "stream":
        return StreamPlan(
            store.lengths, row_length=length, lookahead=lookahead, joined=not config.segments,
            shuffle=shuffle, wrap=training, seed=seed,
        )  # fmt: skip
    return BinPlan(
        store.lengths, row_length=length, lookahead=lookahead, packing=config.packing,
        shuffle=shuffle, seed=seed,
    )  # fmt: skip


def _note_too_long(place: str, plan: PairPlan) -> None:
    what = "cut" if plan.num_cut else "dropped"
    if count := plan.num_cut or plan.num_dropped:
        print(
            f"note: {place}: {count:,} of {plan.rows + plan.num_dropped:,} pairs are longer than a "
            f"row and are {what} (data.too_long); the longest has {plan.longest[0]} tokens and "
            f"{plan.longest[1]} of its target",
            file=sys.stderr,
        )


@dataclasses.dataclass(frozen=True)
class Part:
    """One source of a dataset: its rows through all epochs, how many positions of an epoch are
    trained on, what the report says of it, and itself as a validation split."""

    rows: NumberedRows
    fingerprint: str
    positions: int
    report: dict[str, Any]
    split: ValidationSplit


class Dataset:
    """Training batches and validation splits, ready to read.

    Batches are dicts of arrays [B, ...], as the objective's rows are made. `rows_per_epoch` and
    `tokens_per_epoch` (positions trained on): for several sources those of all together, so an
    epoch of a mixture is as many rows as the sources have, shared out by weight. `report` counts,
    for each source, documents, characters, bytes and tokens. `fingerprint` changes with the
    training data and the tokenizer, `validation_fingerprints[name]` with a split's data and the
    tokenizer.
    """

    def __init__(
        self,
        config: DataConfig,
        tokenizer: Tokenizer,
        train: Mapping[str, Part],
        validation: Mapping[str, Part],
    ) -> None:
        self.tokenizer = tokenizer
        self._threads, self._prefetch = config.read_threads, config.prefetch
        weights = [config.train[name].weight for name in train]
        self._rows = Mixture([part.rows for part in train.values()], weights)
        self.rows_per_epoch = len(self._rows)
        self.tokens_per_epoch = sum(part.positions for part in train.values())
        self.fingerprint = configs.fingerprint(
            [[name, w, part.fingerprint] for (name, part), w in zip(train.items(), weights)]
        )
        self.validation_fingerprints = {n: part.fingerprint for n, part in validation.items()}
        self.validation = {name: part.split for name, part in validation.items()}
        passes = self._passes(dict(zip(train, weights)), train)
        self.report: dict[str, Any] = {
            "tokenizer": {"vocab_size": tokenizer.vocab_size, "fingerprint": tokenizer.fingerprint},
            "rows_per_epoch": self.rows_per_epoch,
            "tokens_per_epoch": self.tokens_per_epoch,
            "train": {n: {**p.report, "passes_per_epoch": passes[n]} for n, p in train.items()},
            "validation": {n: p.report for n, p in validation.items()},
        }

    def _passes(self, weights: Mapping[str, float], train: Mapping[str, Part]) -> dict[str, float]:
        """How often an epoch reads each source; a note to stderr where that is often."""
        found = {}
        for name, part in train.items():
            rows = part.rows
            share = weights[name] / sum(weights.values())
            found[name] = passes = round(share * self.rows_per_epoch / len(rows), 2)
            if passes > _MANY_PASSES:
                print(
                    f"note: data.train.{name}: an epoch of the mixture reads it {passes:,.0f} "
                    f"times (it has {len(rows)} of {self.rows_per_epoch} rows and {share:.1%} of "
                    "the weight); give it less weight, or more text",
                    file=sys.stderr,
                )
        return found

    def batch(
        self, step: int, batch_size: int, process_index: int = 0, process_count: int = 1
    ) -> Features:
        """The batch of one step: rows [step * B, (step + 1) * B) of the run, of which process i of
        n reads the i-th n-th. ConfigError if n does not divide B."""
        begin, end = share(batch_size, process_index, process_count)
        return stack([self._rows[step * batch_size + row] for row in range(begin, end)])

    def train_batches(
        self,
        start_step: int,
        batch_size: int,
        process_index: int = 0,
        process_count: int = 1,
        *,
        at_once: int = 0,
    ) -> Iterator[Features]:
        """Batches of `start_step`, `start_step + 1` ... without end, read ahead by threads, but for
        the first `at_once`: these are read here when they are asked for, and do not wait for what
        reads ahead to be imported (half a second).

        Nothing has to be saved to go on: a start at any step costs the same.
        """
        place = (batch_size, process_index, process_count)
        share(*place)
        return self._read(start_step, at_once, *place)

    def _read(self, start_step: int, at_once: int, *place: int) -> Iterator[Features]:
        for step in range(start_step, start_step + at_once):
            yield self.batch(step, *place)
        # Here, so that evaluation and scoring need not wait for grain's imports either.
        import grain

        batches = grain.MapDataset.range(start_step + at_once, _FOREVER).map(
            lambda step: self.batch(int(step), *place)
        )
        options = grain.ReadOptions(
            num_threads=self._threads, prefetch_buffer_size=max(self._prefetch, self._threads)
        )
        iterator = iter(batches.to_iter_dataset(options))
        try:
            yield from iterator
        finally:
            iterator.close()


def _report(documents: DocumentStore, rows: Rows) -> dict[str, Any]:
    """What cleaning did to the whole source, and what its fraction came to."""
    cleaning = {k: v for k, v in documents.report.items() if k != "source"}
    plan = rows.plan
    pairs = {}
    if isinstance(plan, PairPlan):
        pairs = {"pairs_cut": plan.num_cut, "pairs_dropped": plan.num_dropped}
    return {
        "source": cleaning,
        **rows.store.report(),
        "rows": plan.rows,
        "positions": plan.positions,
        "positions_left_out_per_epoch": plan.left_out,
        **pairs,
    }
