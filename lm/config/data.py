"""What is read: sources, cleaning, tokenizers, packing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Literal, Union

from lm.config.checks import at_least, check, positive
from lm.config.methods import Fold
from lm.errors import ConfigError

# The name of the part of the training examples that `DataConfig.fold` holds out.
FOLD = "fold"


@dataclass(frozen=True)
class CleanConfig:
    """Cleaning of documents before tokenising; what it changed and dropped is counted and reported.

    `control_characters` "remove" drops category Cc except tab and newline; "\\r\\n" and whatever
    else ends or breaks a line (CR, VT, FF, NEL) becomes "\\n".
    """

    normalization: Literal["none", "NFC", "NFKC"] = "none"
    control_characters: Literal["keep", "remove"] = "keep"
    deduplicate: bool = False


@dataclass(frozen=True)
class SourceConfig:
    """What every source has: its weight in a mixture, its cleaning, and the part of it to read.

    `fraction` (begin, end) is a part of the source's characters in order: (0.0, 0.9) and
    (0.9, 1.0) split a corpus, and a document on the boundary is cut there. (One that has a target
    is never cut: it belongs to the part in which it begins.) `fold` is a part of a fraction's
    examples, drawn by lot; data.fold sets it.
    """

    weight: float = 1.0
    fraction: tuple[float, float] = (0.0, 1.0)
    clean: CleanConfig = CleanConfig()
    fold: Fold | None = None

    def __post_init__(self) -> None:
        begin, end = self.fraction
        if not 0.0 <= begin < end <= 1.0:
            raise ConfigError(f"fraction must satisfy 0 <= begin < end <= 1, not {self.fraction}")
        positive(self, "weight")
        check(
            self.fold is None or self.has_examples,
            "fold divides labelled examples; this source has documents, which fraction divides",
        )

    @property
    def has_target(self) -> bool:
        """Whether a document has a second text: its translation, its summary."""
        return False

    @property
    def has_examples(self) -> bool:
        """Whether it is read as examples of a task (text, label ...), not as documents."""
        return False


@dataclass(frozen=True)
class TextFiles(SourceConfig):
    """Plain text below the data root: globs, gzip by the ending .gz.

    A document is a whole file, a line (ended by "\\n" or "\\r\\n"), or a paragraph (separated by
    blank lines). `target_paths` are files with the documents' targets, line by line: as many as
    there are `paths`, in the same order, for document="line".
    """

    paths: tuple[str, ...] = ()
    document: Literal["file", "line", "paragraph"] = "file"
    target_paths: tuple[str, ...] = ()
    kind: Literal["text"] = "text"

    def __post_init__(self) -> None:
        super().__post_init__()
        check(
            not self.target_paths or self.document == "line",
            f'target_paths are read line by line: set document="line", not {self.document!r}',
        )

    @property
    def has_target(self) -> bool:
        return bool(self.target_paths)


@dataclass(frozen=True)
class JsonlFiles(SourceConfig):
    """One JSON object a line; the document is the string under `field`, its target the one under
    `target_field`. A list of strings is a document's sentences, which spaces join; a target that is
    a list has alternatives, of which the first one is taken."""

    paths: tuple[str, ...] = ()
    field: str = "text"
    target_field: str | None = None
    kind: Literal["jsonl"] = "jsonl"

    @property
    def has_target(self) -> bool:
        return self.target_field is not None


@dataclass(frozen=True)
class TsvFiles(SourceConfig):
    """Tab-separated lines; the document is column `column` (a number from 0, or a name in the
    header), its target `target_column`."""

    paths: tuple[str, ...] = ()
    column: int | str = 0
    target_column: int | str | None = None
    header: bool = False
    kind: Literal["tsv"] = "tsv"

    @property
    def has_target(self) -> bool:
        return self.target_column is not None


@dataclass(frozen=True)
class Embedded(SourceConfig):
    """The documentation inside the running Python: ~2 MB of English that needs no download.

    `pairs`: a document is a line, and its target the next one (of text, in the same place): to try
    out what takes pairs. `examples`: lines as examples of any task (`lm.data.embedded.examples`
    says of which): to try out tasks.
    """

    pairs: bool = False
    examples: bool = False
    kind: Literal["embedded"] = "embedded"

    def __post_init__(self) -> None:
        super().__post_init__()
        check(not (self.pairs and self.examples), "pairs and examples are two ways: choose one")

    @property
    def has_target(self) -> bool:
        return self.pairs

    @property
    def has_examples(self) -> bool:
        return self.examples


@dataclass(frozen=True)
class TfdsDataset(SourceConfig):
    """A dataset that TFDS has prepared (as ArrayRecord), below the data root or
    `~/tensorflow_datasets`.

    `field` is where a document's text is. With `fields` its records are examples of a task, as
    `ExampleFiles` says; a class label is then its name, where TFDS knows one.
    """

    name: str = ""
    split: str = "train"
    field: str = "text"
    fields: Mapping[str, str] = dataclass_field(default_factory=dict, hash=False)
    kind: Literal["tfds"] = "tfds"

    @property
    def has_examples(self) -> bool:
        return bool(self.fields)


@dataclass(frozen=True)
class ExampleFiles(SourceConfig):
    """Labelled examples of a task, below the data root: globs, gzip by the ending .gz.

    jsonl     an object a line
    tsv       a line each, columns between `separator`s (default a tab), nothing quoted (GLUE's);
              with `most_columns` the last one is the rest of the line
    csv       as spreadsheets write it: quoted cells may hold separators and ends of lines
    squad     SQuAD's json (Rajpurkar et al. 2016), which needs no `fields`
    columns   CoNLL's: a word a line, a blank line after each sentence, white space between columns;
              lines of "-DOCSTART-" are left out

    `fields` says which column (a number from 0, or a name in the `header`) or key is what to the
    objective: {"text": "sentence", "label": "label"}; those it needs and that are not named there
    are taken by their own names. Which there are: `lm.config.tasks`, at each objective.

    Examples are not cleaned: labels stand at places in their text. `fraction` is one of examples.
    """

    paths: tuple[str, ...] = ()
    format: Literal["jsonl", "tsv", "csv", "squad", "columns"] = "jsonl"
    fields: Mapping[str, int | str] = dataclass_field(default_factory=dict, hash=False)
    header: bool = False
    separator: str | None = None
    most_columns: int | None = None
    encoding: Literal["utf-8", "latin-1"] = "utf-8"
    kind: Literal["examples"] = "examples"

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.clean == CleanConfig(), "examples are read as they are: leave clean out")
        table = self.format in ("tsv", "csv")
        for name, default in (("header", False), ("separator", None), ("most_columns", None)):
            allowed = table and not (name == "most_columns" and self.format == "csv")
            check(
                allowed or getattr(self, name) == default,
                f"{name} says nothing of format={self.format!r}: leave it out",
            )
        check(
            self.format != "squad" or not self.fields,
            'format="squad" says itself what is where: leave fields out',
        )
        check(
            self.separator is None or len(self.separator) == 1,
            f"separator must be one character, not {self.separator!r}",
        )
        at_least(self, 2, "most_columns")
        for role, column in self.fields.items():
            if isinstance(column, int):
                check(table or self.format == "columns", f"fields.{role}: {column} is no key")
                check(column >= 0, f"fields.{role}: columns are numbered from 0, not {column}")
            else:
                check(
                    self.format == "jsonl" or self.header,
                    f"fields.{role}: {column!r} is a header's name: set header=True, or give the "
                    "number of the column, from 0",
                )

    @property
    def has_examples(self) -> bool:
        return True


@dataclass(frozen=True)
class Arithmetic(SourceConfig):
    """Every sum of two numbers modulo `modulus` as an example, in an order drawn by lot: the text
    "a b =", the label a + b (Power et al. 2022; Nanda et al. 2023). It needs no file. `fraction`
    is of the examples, and `seed` that of the order: two sources share it to share no example."""

    modulus: int = 113
    seed: int = 0
    kind: Literal["arithmetic"] = "arithmetic"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 2, "modulus")
        at_least(self, 0, "seed")
        check(self.clean == CleanConfig(), "sums are clean: leave clean out")

    @property
    def has_examples(self) -> bool:
        return True


@dataclass(frozen=True)
class MarkovChains(SourceConfig):
    """`chains` documents of `length` letters, the first `states` of the alphabet (Edelman et al.
    2024). Each has transition probabilities of its own, whose rows are uniform on the simplex
    (Dirichlet(1)), and begins with their stationary distribution. It needs no file; sources of
    another `seed` have other chains."""

    states: int = 3
    length: int = 101
    chains: int = 4096
    seed: int = 0
    kind: Literal["markov_chains"] = "markov_chains"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 2, "states", "length")
        check(self.states <= 26, f"states are letters, of which there are 26, not {self.states}")
        at_least(self, 1, "chains")
        at_least(self, 0, "seed")


@dataclass(frozen=True)
class LinearFunctions(SourceConfig):
    """Linear functions f(x) = w x of `dims` coordinates, each with its values at `points` points; w
    and every x are standard normal (Garg et al. 2022). A row is a function, a new one in every
    epoch of `functions` rows, drawn from the run's seed. It needs no file.

    As a curriculum the first rows have `first_dims` coordinates, the others being zero, and
    `first_points` points that count; every `grow_every` rows there is a coordinate more, and there
    are two points more, until there are all.
    """

    dims: int = 20
    points: int = 41
    functions: int = 64_000
    first_dims: int | None = None
    first_points: int | None = None
    grow_every: int | None = None
    kind: Literal["linear_functions"] = "linear_functions"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 1, "dims", "points", "functions", "first_dims", "first_points", "grow_every")
        for first, most in (("first_dims", self.dims), ("first_points", self.points)):
            given = getattr(self, first)
            check(given is None or given <= most, f"{first}={given} is more than there are: {most}")
            check(
                given is None or self.grow_every is not None,
                f"{first} begins a curriculum: grow_every says how many rows a stage has",
            )
        check(
            self.fraction == (0.0, 1.0) and self.clean == CleanConfig(),
            "functions are drawn anew: leave fraction and clean out",
        )

    @property
    def has_examples(self) -> bool:
        return True


Source = Union[
    TextFiles,
    JsonlFiles,
    TsvFiles,
    Embedded,
    TfdsDataset,
    ExampleFiles,
    Arithmetic,
    MarkovChains,
    LinearFunctions,
]


@dataclass(frozen=True)
class ByteTokenizer:
    """UTF-8 bytes 0-255, then <pad> 256, <bos> 257, <eos> 258. Every text round-trips exactly."""

    kind: Literal["byte"] = "byte"


@dataclass(frozen=True)
class CharacterTokenizer:
    """One token a Unicode character, the characters of the training sources in code-point order.

    It has no <eos> (set data.add_eos=False) and no <unk>: a character it has not seen is an error.
    """

    path: str | None = None
    kind: Literal["character"] = "character"


@dataclass(frozen=True)
class WordsTokenizer:
    """One token a word, where white space alone separates words: for text that is tokenised
    already (with "@@ " inside words, say). <pad> 0, <bos> 1, <eos> 2, <unk> 3, then the words of
    the training sources from the most frequent on: `vocab_size` tokens in all, or every word."""

    path: str | None = None
    vocab_size: int | None = None
    kind: Literal["words"] = "words"


@dataclass(frozen=True)
class BPETokenizer:
    """Byte-level BPE (GPT-2). Trained to `vocab_size` on the training sources, or loaded from
    `path`: a tokenizer.json, or a folder with it or with GPT-2's encoder.json and vocab.bpe."""

    path: str | None = None
    vocab_size: int | None = None
    kind: Literal["bpe"] = "bpe"


@dataclass(frozen=True)
class WordPieceTokenizer:
    """WordPiece (BERT). Trained to `vocab_size`, or loaded from `path`: vocab.txt or
    tokenizer.json."""

    path: str | None = None
    vocab_size: int | None = None
    lowercase: bool = True
    kind: Literal["wordpiece"] = "wordpiece"


@dataclass(frozen=True)
class SentencePieceTokenizer:
    """SentencePiece, unigram or BPE. Trained to `vocab_size`, or loaded from `path`: a .model."""

    path: str | None = None
    vocab_size: int | None = None
    model_type: Literal["unigram", "bpe"] = "unigram"
    kind: Literal["sentencepiece"] = "sentencepiece"


@dataclass(frozen=True)
class HuggingFaceTokenizer:
    """Any tokenizer.json, used as it is: `path` is the file, or a folder with it and the
    tokenizer_config.json beside it. Loaded, never trained."""

    path: str | None = None
    vocab_size: int | None = None
    kind: Literal["huggingface"] = "huggingface"


TokenizerConfig = Union[
    ByteTokenizer,
    CharacterTokenizer,
    WordsTokenizer,
    BPETokenizer,
    WordPieceTokenizer,
    SentencePieceTokenizer,
    HuggingFaceTokenizer,
]


@dataclass(frozen=True)
class DataConfig:
    """What is read, and how documents become rows of `sequence_length` tokens. `train` of a model
    that was converted, not trained here, names no source.

    `packing`: "stream" joins the documents of an epoch in shuffled order and cuts the stream into
    rows; "first_fit" puts whole documents (cut only where longer than a row) into rows; "none"
    gives each piece of a document its own row. `segments`: attention and positions stop at
    document boundaries, and no token is predicted across one ("stream" only; the other two
    always do). `add_bos` and `add_eos` put the tokenizer's tokens around every document.

    A document with a target is a row of its own, whole (packing "none"), or shares one with others
    where the objective packs pairs ("first_fit"); `add_bos` and `add_eos`
    stand around either text. `too_long` is what happens to those that are longer than a row: an
    "error" says how many they are, "cut" takes from their ends (but for an eos), "drop" leaves
    them out; the data report counts both. So it is with examples of tasks.

    `fold` trains on all but one part of the labelled examples of `train`, which names one source,
    and evaluates on that part, as the first of `validation`: "fold".
    """

    train: Mapping[str, Source]
    tokenizer: TokenizerConfig
    sequence_length: int
    validation: Mapping[str, Source] = dataclass_field(default_factory=dict)
    packing: Literal["stream", "first_fit", "none"] = "stream"
    segments: bool = False
    shuffle: bool = True
    add_bos: bool = False
    add_eos: bool = True
    too_long: Literal["error", "cut", "drop"] = "error"
    read_threads: int = 2
    prefetch: int = 16
    fold: Fold | None = None

    def __post_init__(self) -> None:
        at_least(self, 1, "sequence_length")
        at_least(self, 0, "read_threads", "prefetch")
        if self.fold is not None:
            self._divide(self.fold)

    def _divide(self, fold: Fold) -> None:
        """Has the sources say it: whatever reads them needs to know of nothing else."""
        check(
            len(self.train) == 1 and not fold.held_out,
            f"data.fold divides the one source of data.train, which has {len(self.train)}; "
            "held_out is for sources",
        )
        ((name, source),) = self.train.items()
        others = {key: value for key, value in self.validation.items() if key != FOLD}
        own = dataclasses.replace(source, fold=fold)
        held_out = dataclasses.replace(source, fold=dataclasses.replace(fold, held_out=True))
        object.__setattr__(self, "train", {name: own})
        object.__setattr__(self, "validation", {FOLD: held_out, **others})
