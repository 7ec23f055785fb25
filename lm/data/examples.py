"""Labelled examples as batches: read into memory, tokenised once, in an order by (seed, epoch).

Labelled data is small and its rows hold no randomness, so they are made once, as arrays; from there
on they are rows as any (`lm.data.pipeline.Dataset`), and training, resuming and evaluation are what
they are for text.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from lm import config as configs
from lm.config import DataConfig, Roles, Source
from lm.data.examples_read import Example, read_examples
from lm.data.packing import Epochs
from lm.data.pipeline import Dataset, Part, check_vocabulary, named
from lm.data.rows import seed_of
from lm.data.sources import source_fingerprint
from lm.data.tokenizer import Tokenizer, build_tokenizer
from lm.data.validation import ValidationSplit
from lm.errors import ConfigError, UserError
from lm.types import Features

# Raise when the same examples become other rows.
_VERSION = 1


@dataclass(frozen=True)
class Encoded:
    """What became of one example: rows of the same shapes as everyone's, one but where a text is
    read in windows. Padding is -1 in "positions"; a row all of zeros otherwise weighs nothing.

    `left_out` counts the tokens that did not fit, `notes` is what turning predictions back into
    answers needs.
    """

    rows: list[Features]
    left_out: int = 0
    notes: Any = field(default=None, repr=False)


@runtime_checkable
class ExampleMaker(Protocol):
    """From an example to its rows; what is too long is cut."""

    @property
    def room(self) -> str:
        """What a row holds, for messages."""
        ...

    def __call__(self, example: Example, *, labelled: bool) -> Encoded:
        """Without `labelled` the targets are not looked for, and the rows weigh nothing.

        Raises:
          UserError: a value that is missing, empty, of another type, or an unknown label; it
            names the example's place.
        """
        ...


# The tokenizer and the training examples (from which labels are weighed) to a maker.
MakerOf = Callable[[Tokenizer, Sequence[Example]], ExampleMaker]


class ExampleRows:
    """The rows of one source, numbered through all epochs as `lm.data.rows.Rows` are: with
    `shuffle` an epoch puts them in an order of its own, drawn from (seed, epoch).

    `examples` and `encoded` go together; their rows are in this order where nothing is shuffled.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        encoded: Sequence[Encoded],
        *,
        shuffle: bool,
        seed: tuple[int, ...],
    ) -> None:
        self.examples, self.encoded = examples, encoded
        self._shuffle, self._seed = shuffle, seed
        rows = [row for found in encoded for row in found.rows]
        self._count = len(rows)
        # Whole arrays take less memory than many small ones.
        self._features = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        self._epoch = Epochs(self._make_epoch)

    def _make_epoch(self, epoch: int) -> np.ndarray:
        if not self._shuffle:
            return np.arange(self._count)
        return np.random.default_rng([*self._seed, epoch]).permutation(self._count)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> Features:
        epoch, place = divmod(number, self._count)
        row = int(self._epoch(epoch)[place])
        return {name: values[row] for name, values in self._features.items()}

    @property
    def positions(self) -> int:
        """Those that hold a token, of all rows."""
        return int((self._features["positions"] >= 0).sum())


class ExampleDataset(Dataset):
    """Training batches and validation splits of examples. `sources[split, name]` are the rows of
    each source, with its examples."""

    def __init__(
        self,
        config: DataConfig,
        tokenizer: Tokenizer,
        train: Mapping[str, Part],
        validation: Mapping[str, Part],
        sources: Mapping[tuple[str, str], ExampleRows],
    ) -> None:
        super().__init__(config, tokenizer, train, validation)
        self.sources = sources


def prepare_examples(
    config: DataConfig,
    *,
    vocab_size: int | None,
    roles: Callable[[Source], Roles],
    make_rows: MakerOf,
    seed: int,
    data_root: Path,
    cache_dir: Path,
    tokenizer: Tokenizer | None = None,
) -> ExampleDataset:
    """`lm.data.pipeline.prepare_dataset` for the examples of a task.

    `roles` says what is read of a source; a tokenizer is trained on the inputs of the training
    examples. UserErrors name the source, the file and the line.
    """
    if not config.train:
        raise ConfigError("data.train names no source: there is nothing to train on")
    given: list[tuple[str, str, Source]] = [
        *(("train", name, source) for name, source in sorted(config.train.items())),
        *(("validation", name, source) for name, source in config.validation.items()),
    ]
    read: dict[tuple[str, str], list[Example]] = {}
    prints: dict[tuple[str, str], str] = {}
    for split, name, source in given:
        with named(split, name):
            read[split, name] = read_examples(source, roles(source), data_root)
            prints[split, name] = _fingerprint(source, data_root)
    training = [read[split, name] for split, name, _ in given if split == "train"]
    if tokenizer is None:
        first = next(iter(config.train.values()))
        tokenizer = build_tokenizer(
            config.tokenizer,
            data_root=data_root,
            cache_dir=cache_dir,
            texts=lambda: _texts(itertools.chain.from_iterable(training), roles(first)),
        )
    check_vocabulary(tokenizer, vocab_size)
    maker = make_rows(tokenizer, list(itertools.chain.from_iterable(training)))
    parts: dict[str, dict[str, Part]] = {"train": {}, "validation": {}}
    sources: dict[tuple[str, str], ExampleRows] = {}
    for split, name, _ in given:
        with named(split, name):
            rows, dropped, report = _rows(
                read[split, name], maker, config, f"data.{split}.{name}",
                shuffle=config.shuffle and split == "train", seed=seed_of(seed, name),
            )  # fmt: skip
        sources[split, name] = rows
        # What a tokenizer, a row's length and the objective make of them is in the run's config.
        own = configs.fingerprint([_VERSION, prints[split, name], tokenizer.fingerprint])
        parts[split][name] = Part(
            rows=rows, fingerprint=own, positions=rows.positions, report=report,
            split=ValidationSplit(
                rows=len(rows), tokens=rows.positions, bytes=None, documents=len(rows.examples),
                characters=report["characters"], _rows=rows, dropped=dropped,
            ),
        )  # fmt: skip
    return ExampleDataset(config, tokenizer, parts["train"], parts["validation"], sources)


def _fingerprint(source: Source, data_root: Path) -> str:
    whole = dataclasses.replace(source, weight=1.0, fraction=(0.0, 1.0))
    # How folds are drawn is what they hold.
    drawn = [] if source.fold is None else ["by label"]
    return configs.fingerprint(
        [source_fingerprint(whole, data_root), list(source.fraction), *drawn]
    )


def _rows(
    examples: list[Example],
    maker: ExampleMaker,
    config: DataConfig,
    place: str,
    **order: Any,
) -> tuple[ExampleRows, frozenset[int], dict[str, Any]]:
    """The rows of a source, the examples that have none, and what the data report says of them."""
    encoded = [maker(example, labelled=True) for example in examples]
    long = [index for index, found in enumerate(encoded) if found.left_out]
    # Of what a chat was cut down to there may be nothing to learn.
    empty = {index for index, found in enumerate(encoded) if not found.rows}
    if long and config.too_long == "error":
        worst = max(long, key=lambda index: encoded[index].left_out)
        raise UserError(
            f"{len(long):,} of {len(examples):,} examples do not fit a row, which holds "
            f"{maker.room}; the longest has {encoded[worst].left_out:,} tokens more "
            f"({examples[worst].place}): raise data.sequence_length, or set data.too_long to "
            "'cut' or 'drop'"
        )
    dropped = empty | set(long if config.too_long == "drop" else ())
    kept = [index for index in range(len(examples)) if index not in dropped]
    if not kept:
        raise UserError(
            f"none of the {len(examples):,} examples fits a row, which holds {maker.room}: raise "
            "data.sequence_length"
        )
    cut = [index for index in long if index not in dropped]
    for what, count in (("cut", len(cut)), ("dropped", len(dropped))):
        if count:
            print(
                f"note: {place}: {count:,} of {len(examples):,} examples are longer than a row and "
                f"are {what} (data.too_long)",
                file=sys.stderr,
            )
    rows = ExampleRows([examples[i] for i in kept], [encoded[i] for i in kept], **order)
    report = {
        "examples": len(kept),
        "examples_cut": len(cut),
        "examples_dropped": len(dropped),
        "tokens_left_out": sum(encoded[i].left_out for i in cut),
        "characters": sum(len(text) for example in rows.examples for text in strings(example)),
        "rows": len(rows),
        "positions": rows.positions,
    }
    return rows, frozenset(dropped), report


def strings(example: Example, roles: Sequence[str] | None = None) -> Iterator[str]:
    """All text of an example's values, of those under `roles` alone where they are given."""

    def inside(value: Any) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            for one in value.values():
                yield from inside(one)
        elif isinstance(value, (list, tuple)):
            for one in value:
                yield from inside(one)

    for role in example.values if roles is None else roles:
        yield from inside(example.values.get(role))


def _texts(examples: Iterable[Example], roles: Roles) -> Iterator[str]:
    """What a tokenizer learns from: the inputs, a passage of many questions once."""
    seen: set[str] = set()
    for example in examples:
        # An answer that is written is text too; a label, a tag or a span is none.
        written = roles.targets if roles.targets == ("response",) else ()
        for text in strings(example, (*roles.inputs, *roles.optional, *written)):
            if text not in seen:
                seen.add(text)
                yield text
