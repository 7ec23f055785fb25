"""Datasets that TFDS prepared as ArrayRecord, read without TensorFlow."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lm.config import TfdsDataset
from lm.data.files import no_such
from lm.errors import ConfigError, UserError

_INFO = "dataset_info.json"
# Records fetched at a time: enough to spread the call's cost, few enough to hold long documents.
_RECORDS = 256


def find(source: TfdsDataset, data_root: Path) -> Path:
    """The folder of the prepared dataset: `name` may be `dataset`, `dataset/config` and end in
    `:version`; the highest version is taken where none is named."""
    if not source.name:
        raise ConfigError("the tfds source names no dataset: set its name, such as 'imdb_reviews'")
    name = source.name.replace(":", "/")
    if name.startswith("/") or ".." in Path(name).parts:
        raise ConfigError(
            f"{source.name!r} is no name of a TFDS dataset, but a path; --data_root=FOLDER or "
            "LM_DATA says where data is"
        )
    roots = [data_root, data_root / "tensorflow_datasets", Path("~/tensorflow_datasets")]
    for root in (r.expanduser() for r in roots):
        found = sorted((root / name).glob(f"**/{_INFO}"), key=_version) if name else []
        configs = {path.parent.parent for path in found}
        if (root / name / _INFO).is_file():
            return root / name
        if len(configs) > 1:
            names = ", ".join(sorted(f"{p.relative_to(root)}" for p in configs))
            raise ConfigError(
                f"TFDS dataset {source.name!r} has several configs: name one of {names}"
            )
        if found:
            return found[-1].parent
    raise UserError(
        f"no TFDS dataset {source.name!r} below {' or '.join(str(r) for r in roots)}\n"
        "  prepare it where TensorFlow is installed: tfds build --file_format=array_record "
        f"{source.name}\n  --data_root=FOLDER or LM_DATA says where data is"
    )


def _version(info: Path) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else 0 for part in info.parent.name.split("."))


def files(source: TfdsDataset, data_root: Path) -> list[Path]:
    """All files of the prepared dataset."""
    return sorted(path for path in find(source, data_root).iterdir() if path.is_file())


def texts(source: TfdsDataset, data_root: Path) -> Iterator[str]:
    """The strings under `source.field`, in the order of the split."""
    folder = find(source, data_root)
    for number, record in enumerate(records(folder, source.split)):
        yield _field(record, source.field, f"{folder}, record {number} of {source.split!r}")


def records(folder: Path, split: str) -> Iterator[dict[str, Any]]:
    """The records of a split in order."""
    source = open_split(folder, split)
    for begin in range(0, len(source), _RECORDS):
        numbers = range(begin, min(begin + _RECORDS, len(source)))
        try:
            found = source.__getitems__(list(numbers))
        # What the format's library raises has no class of its own.
        except Exception as error:
            reason = str(error).strip().split("\n")[0]
            raise UserError(f"{folder} is damaged ({reason}); prepare it again") from None
        yield from found


def class_names(folder: Path) -> dict[str, list[str]]:
    """The names of the labels of every feature that has such."""
    import tensorflow_datasets as tfds

    features = dict(tfds.builder_from_directory(folder).info.features or {})
    inner = {name: getattr(feature, "feature", feature) for name, feature in features.items()}
    return {
        name: list(feature.names)
        for name, feature in inner.items()
        if isinstance(feature, tfds.features.ClassLabel) and feature.names
    }


def open_split(folder: Path, split: str) -> Any:
    """A random-access view of a split; UserError for another file format and an unknown split."""
    # Here, because TFDS takes half a second to import and a warm cache needs none of it.
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(folder)
    file_format = builder.info.file_format.value
    if file_format != "array_record":
        raise UserError(
            f"{folder} was prepared as {file_format}, which cannot be read at random; "
            "prepare it again with --file_format=array_record"
        )
    try:
        records = builder.as_data_source(split)
        if not len(records):
            raise ValueError("it has no records")
        return records
    except (ValueError, KeyError) as error:
        names = re.findall(r"(?:^|\+)\s*([^\[+]+)", split)
        unknown = [name for name in names if name not in builder.info.splits]
        if unknown or not names:
            wrong = no_such("split", (unknown or [split])[0], list(builder.info.splits))
            raise UserError(f"{folder} has {wrong}") from None
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"the slice {split!r} of {folder} is empty or malformed ({reason}); write it like "
            f"'{names[0]}[:90%]'"
        ) from None


def _field(record: dict[str, Any], field: str, place: str) -> str:
    if field not in record:
        raise UserError(f"{place} has {no_such('field', field, record)}")
    value = record[field]
    if isinstance(value, str):
        return value
    if not isinstance(value, bytes):
        raise UserError(f"{place}: field {field!r} is {type(value).__name__}, not text")
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{place}: field {field!r} is not UTF-8 at byte {error.start} ({error.reason})"
        ) from None
