"""Reading and writing the safetensors format, and files that are not what they should be."""

from __future__ import annotations

import re
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from lm.convert.safetensors import DTYPES, read_tensors, write_tensors
from lm.errors import UserError
from tests.convert.files import write_raw, write_safetensors

ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "half": rng.standard_normal((3, 5)).astype(np.float16),
        "brain": rng.standard_normal((2, 3, 4)).astype(ml_dtypes.bfloat16),
        "ids": np.arange(6, dtype=np.int64).reshape(2, 3),
        "scalar": np.asarray(2.5, np.float64),
        "empty": np.zeros((0, 4), np.float32),
    }


def test_what_others_write_is_read_and_only_when_asked(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "a.safetensors", arrays())
    tensors = read_tensors(path)
    for name, array in arrays().items():
        tensor = tensors[name]
        assert (tensor.shape, tensor.dtype, tensor.num_bytes) == (
            array.shape, array.dtype, array.nbytes,
        )  # fmt: skip
        assert tensor.read().tobytes() == array.tobytes()
    path.unlink()
    with pytest.raises(UserError, match=f"could not read {re.escape(str(path))}"):
        tensors["half"].read()


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "b.safetensors"
    specs = {name: (array.dtype, array.shape) for name, array in arrays().items()}
    write_tensors(path, specs, iter(arrays().items()))
    for name, tensor in read_tensors(path).items():
        np.testing.assert_array_equal(tensor.read(), arrays()[name], strict=True)
    # Readers that map the file want aligned numbers.
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0


def test_the_library_of_the_format_reads_it_too(tmp_path: Path) -> None:
    library = pytest.importorskip("safetensors")
    path = tmp_path / "b.safetensors"
    # numpy has no bfloat16 of its own, which the library wants.
    given = {name: array for name, array in arrays().items() if name != "brain"}
    specs = {name: (array.dtype, array.shape) for name, array in given.items()}
    write_tensors(path, specs, iter(given.items()))
    with library.safe_open(path, "np") as file:
        assert file.metadata() == {"format": "pt"}
        for name, array in given.items():
            np.testing.assert_array_equal(file.get_tensor(name), array)


def test_every_dtype_has_the_size_its_name_says() -> None:
    for name, dtype in DTYPES.items():
        digits = re.sub(r"\D", "", name)
        assert dtype.itemsize * 8 == int(digits or 8)


def test_a_git_lfs_pointer_is_told_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(UserError, match="a Git LFS pointer, not the tensors .* git lfs pull"):
        read_tensors(path)


def test_a_truncated_file_is_named_with_its_sizes(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "a.safetensors", arrays())
    whole = path.read_bytes()
    path.write_bytes(whole[:-16])
    with pytest.raises(UserError, match=rf"is truncated: {len(whole) - 16} bytes, but .* fetch it"):
        read_tensors(path)


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        (b"{]", b"", "the safetensors header is damaged: "),
        (b"\xff\xfe", b"", "the safetensors header is damaged: "),
        ([1], b"", "it is not a JSON object"),
        ({"a": ENTRY}, b"\0" * 12, "4 bytes after the last tensor belong to none"),
        ({"a": {**ENTRY, "shape": [3]}}, b"\0" * 8, r"'a' has 8 bytes, but float32 \[3\] is 12"),
        (
            {"a": {**ENTRY, "dtype": "F8_E4M3"}},
            b"\0" * 8,
            "'a' has dtype F8_E4M3, which is not one",
        ),
        ({"a": {**ENTRY, "dtype": [4]}}, b"\0" * 8, "'a'"),
        ({"a": {**ENTRY, "shape": [-2]}}, b"\0" * 8, "'a': the header is damaged"),
        ({"a": {**ENTRY, "data_offsets": [8, 0]}}, b"\0" * 8, "'a': the header is damaged"),
        ({"a": {"dtype": "F32"}}, b"\0" * 8, "'a': the header is damaged"),
        ({"a": 7}, b"\0" * 8, "'a': the header is damaged: 7"),
        ({"a": ENTRY, "b": ENTRY}, b"\0" * 8, "'a' and 'b' overlap"),
        (
            {"a": ENTRY, "b": {**ENTRY, "data_offsets": [12, 20]}},
            b"\0" * 20,
            "'a' and 'b' have a gap between them",
        ),
    ],
)
def test_a_damaged_header_is_refused(
    tmp_path: Path, header: object, data: bytes, message: str
) -> None:
    path = write_raw(tmp_path / "bad.safetensors", header, data)
    with pytest.raises(UserError, match=message) as caught:
        read_tensors(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\x01\0", b"\xff" * 8, (1 << 40).to_bytes(8, "little")])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match="is truncated or no safetensors file"):
        read_tensors(path)
