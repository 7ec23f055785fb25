"""Runs the model in this folder. It needs jax, flatbuffers, numpy and tokenizers, nothing else:

    pip install -r requirements.txt
    python run.py --text="..." [--json]          what the model says of a text
    python run.py --text="..." --text_pair="..." of a pair of texts
    python run.py --text="Once upon" --max_new_tokens=40 --temperature=0.8 --top_p=0.95 --seed=1

or from Python, with many texts at once:

    from run import Artefact
    print(Artefact(FOLDER)(["a text", "another one"]))
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers
from jax import export

DTYPES: dict[str, Any] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": jnp.dtype("bfloat16"),
}


class NotPossibleError(Exception):
    """What cannot be answered, and why."""


class Artefact:
    """The model of a folder. `kind` is "generate", "classify", "regress", "tag" or "embed".

    Programs are compiled once for every shape: texts are padded to few lengths, and as many texts
    as are given make a batch.
    """

    def __init__(self, folder: str | Path, *, verify: bool = True) -> None:
        """Raises NotPossibleError for a folder that is none or not whole (`verify`: file by file,
        by SHA-256), and where this machine's platform is not one it was exported for."""
        self.folder = Path(folder)
        self.manifest = _manifest(self.folder / "manifest.json")
        if verify:
            _verify(self.folder, self.manifest["files"])
        self.kind, self.how = self.manifest["kind"], self.manifest["how"]
        # "cuda" or "rocm", where JAX itself says "gpu" of both.
        platform = export.default_export_platform()
        if platform not in self.manifest["platforms"]:
            known = ", ".join(self.manifest["platforms"])
            raise NotPossibleError(f"exported for {known}, and JAX runs on {platform} here")
        self.tokenizer = tokenizers.Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        # A text that spells a special token holds text, not that token.
        self.tokenizer.encode_special_tokens = True
        self._skipped = frozenset(self.manifest["tokenizer"]["skipped"])
        self.params = jax.device_put(read_weights(self.folder / self.manifest["weights"]["file"]))
        program = (self.folder / self.manifest["program"]["file"]).read_bytes()
        self._call = jax.jit(export.deserialize(bytearray(program)).call)

    def __call__(self, texts: Sequence[Any], **options: Any) -> list[dict[str, Any]]:
        """What the model says of each text (or pair of texts, where it classifies): `generate`,
        `predict`, `tag` or `embed`, by its kind."""
        by_kind: dict[str, Any] = {
            "generate": self.generate, "tag": self.tag, "embed": self.embed,
        }  # fmt: skip
        return by_kind.get(self.kind, self.predict)(texts, **options)

    def encode(self, text: str) -> list[int]:
        """The ids of a text, with nothing around them."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens."""
        kept = [i for i in ids if i not in self._skipped]
        return self.tokenizer.decode(kept, skip_special_tokens=False)

    def run(self, **arrays: Any) -> dict[str, np.ndarray]:
        """The exported program itself: arrays in and out, as manifest.json names them."""
        dtypes = {name: of["dtype"] for name, of in self.manifest["program"]["inputs"].items()}
        given = {name: np.asarray(arrays[name], dtype) for name, dtype in dtypes.items()}
        return {name: np.asarray(x) for name, x in self._call(self.params, given).items()}

    # ---------------------------------------------------------------------------- generation

    def generate(
        self,
        texts: Sequence[str],
        *,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        target_begins: Sequence[int] | None = None,
    ) -> list[dict[str, Any]]:
        """{"text", "tokens", "logprobs", "finish_reason"} of each prompt, or of each text that an
        encoder-decoder reads, whose answer begins with `target_begins` (ids; by default its start
        token). temperature 0 takes the likeliest token; top_k 0 and top_p 1 keep all."""
        how, limit = self.how, self.how["positions"]
        if not (temperature >= 0 and top_k >= 0 and 0 < top_p <= 1 and 0 <= seed < 2**32):
            raise NotPossibleError(
                f"temperature={temperature}, top_k={top_k}, top_p={top_p}, seed={seed}: the first "
                "two are 0 or more, top_p above 0 and at most 1, the seed below 2^32"
            )
        read = [self._prompt(text) for text in texts]
        prompts = read
        if how["reads_source"]:
            start = how["target_begins"] if target_begins is None else target_begins
            prompts = [list(start)] * len(read)
        if max_new_tokens < 1:
            raise NotPossibleError(f"max_new_tokens must be at least 1, not {max_new_tokens}")
        longest = max(map(len, prompts))
        if limit is not None and longest + max_new_tokens > limit:
            raise NotPossibleError(
                f"{longest} tokens and max_new_tokens={max_new_tokens} more exceed the {limit} "
                "positions the model has"
            )
        width, room = longest, _bucket(max_new_tokens)
        if not how["reads_source"]:
            width = _bucket(longest)
        if limit is not None:
            width = min(width, limit - max_new_tokens)
            room = min(room, limit - width)
        tokens, positions = _padded(prompts, width, left=True)
        arrays: dict[str, Any] = {"tokens": tokens, "positions": positions}
        if how["reads_source"]:
            arrays["source"], arrays["source_positions"] = self._sources(read, limit)
        found = self.run(
            **arrays, fill=np.zeros(room), limit=max_new_tokens, seed=seed,
            temperature=temperature, top_k=top_k, top_p=top_p,
        )  # fmt: skip
        answers = []
        for row, prompt in enumerate(prompts):
            count = int(found["count"][row])
            made = found["tokens"][row, :count].tolist()
            ended = made[-1] == how["eos"]
            before = [] if how["reads_source"] else prompt
            answers.append({
                "text": self._added(before, made[:-1] if ended else made),
                "tokens": made,
                "logprobs": found["logprobs"][row, :count].tolist(),
                "finish_reason": "eos" if ended else "length",
            })  # fmt: skip
        return answers

    def _prompt(self, text: str) -> list[int]:
        ids = self.encode(text)
        tokens = [*self.how["before"], *ids, *self.how["after"]]
        tokens = tokens or list(self.how["if_empty"])
        if not tokens:
            raise NotPossibleError("the text is empty, and nothing stands before a text")
        return tokens

    def _sources(
        self, sources: Sequence[Sequence[int]], limit: int | None
    ) -> tuple[np.ndarray, np.ndarray]:
        longest = max(map(len, sources))
        if limit is not None and longest > limit:
            raise NotPossibleError(
                f"a text of {longest} tokens exceeds the {limit} positions the model has"
            )
        return _padded(sources, min(_bucket(longest), limit or sys.maxsize))

    def _added(self, prompt: Sequence[int], made: Sequence[int]) -> str:
        """What `made` adds to the text of `prompt`, on which a first space may depend."""
        before, whole = self.decode(prompt), self.decode([*prompt, *made])
        return whole[len(before) :] if whole.startswith(before) else self.decode(made)

    # ------------------------------------------------------------------ what is read in one go

    def predict(self, texts: Sequence[str | Sequence[str]]) -> list[dict[str, Any]]:
        """Of each text, or pair of texts: {"label", "probabilities"}, {"labels", "probabilities"}
        (where there may be several) or {"value"}. What does not fit is cut, and "left_out" says
        how many tokens of it."""
        rows, left_out = [], []
        for given in texts:
            parts = [self.encode(part) for part in ([given] if isinstance(given, str) else given)]
            kept, cut = self._fitted(parts)
            rows.append(self._row(kept))
            left_out.append(cut)
        found = self._read(rows)
        answers = [self._answer(found, row) for row in range(len(rows))]
        return [a | ({"left_out": cut} if cut else {}) for a, cut in zip(answers, left_out)]

    def _answer(self, found: dict[str, np.ndarray], row: int) -> dict[str, Any]:
        if self.kind == "regress":
            return {"value": float(found["value"][row])}
        p = found["probabilities"][row]
        probabilities = dict(zip(self.how["labels"], map(float, p)))
        if self.how["multi_label"]:
            chosen = [name for name, value in probabilities.items() if value > 0.5]
            return {"labels": chosen, "probabilities": probabilities}
        return {"label": self.how["labels"][int(np.argmax(p))], "probabilities": probabilities}

    def tag(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        """{"words", "tags", "probabilities"} of each text, whose words stand between spaces; None
        for words that did not fit."""
        rows, places, words = [], [], [text.split() for text in texts]
        for of_text in words:
            encoding = self.tokenizer.encode(" ".join(of_text), add_special_tokens=False)
            # A number a word: of a text without words none.
            begins = np.cumsum([0, *(len(word) + 1 for word in of_text)])[:-1]
            first = np.searchsorted([end for _, end in encoding.offsets], begins, side="right")
            (kept,), _ = self._fitted([encoding.ids])
            rows.append(self._row([kept]))
            before = len(self.how["before"])
            places.append([int(at) + before if at < len(kept) else None for at in first])
        found = self._read(rows)
        labels = self.how["labels"]
        return [
            {
                "words": words[row],
                "tags": [None if i is None else labels[found["tag"][row, i]] for i in where],
                "probabilities": [
                    None if i is None else float(found["probability"][row, i]) for i in where
                ],
            }
            for row, where in enumerate(places)
        ]

    def embed(
        self, texts: Sequence[str], *, pooling: str = "mean", normalize: bool = False
    ) -> list[dict[str, Any]]:
        """{"embedding": [D]} of each text: the "mean" over its tokens, the "cls" token's vector, or
        the "last" token's; `normalize`: of length 1."""
        rows = [(self._prompt_of_text(text), None) for text in texts]
        vectors = self._read(rows)[pooling]
        if normalize:
            lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
            vectors = vectors / np.where(lengths > 0, lengths, 1)
        return [{"embedding": vector.tolist()} for vector in vectors]

    def _prompt_of_text(self, text: str) -> list[int]:
        tokens = [*self.how["before"], *self.encode(text), *self.how["after"]]
        longest = self.how["longest"]
        if not tokens or (longest is not None and len(tokens) > longest):
            raise NotPossibleError(
                f"a text of {len(tokens)} tokens; from 1 to {longest} can be read"
            )
        return tokens

    def _fitted(self, parts: Sequence[list[int]]) -> tuple[list[list[int]], int]:
        """The texts, cut to fit a row, and how many tokens that took: of two the longer gives
        way."""
        how = self.how
        if len(parts) > 2 or (len(parts) == 2 and how["between"] is None):
            raise NotPossibleError("the model reads one text at a time")
        between = how["between"] if len(parts) == 2 else []
        room = how["longest"] - len([*how["before"], *between, *how["after"]])
        kept = [parts[0][:room]]
        if len(parts) == 2:
            second = min(len(parts[1]), max(room - len(parts[0]), room // 2))
            kept = [parts[0][: room - second], parts[1][:second]]
        return kept, sum(map(len, parts)) - sum(map(len, kept))

    def _row(self, parts: Sequence[list[int]]) -> tuple[list[int], list[int]]:
        """The tokens of a row, and the type of each."""
        how = self.how
        tokens = [*how["before"], *parts[0]]
        types = []
        if len(parts) == 2:
            tokens += how["between"]
            types = [0] * len(tokens)
            tokens += parts[1]
        tokens += how["after"]
        types += [len(parts) - 1] * (len(tokens) - len(types))
        if how["reads_last"]:
            types[-1] = 2
        return tokens, types

    def _read(self, rows: Sequence[tuple[list[int], list[int] | None]]) -> dict[str, np.ndarray]:
        """The program's answer to rows, of a length that it takes."""
        how = self.how
        width = how["fixed"] or _bucket(max(len(tokens) for tokens, _ in rows))
        if not how["fixed"] and how["longest"] is not None:
            width = min(width, how["longest"])
        tokens, positions = _padded([tokens for tokens, _ in rows], width, how.get("pad", 0))
        arrays = {"tokens": tokens, "positions": positions}
        if how.get("typed"):
            arrays["token_types"] = _padded([types or [] for _, types in rows], width)[0]
        return self.run(**arrays)


def _bucket(length: int) -> int:
    """A padded length, to compile rarely."""
    return max(16, 1 << (length - 1).bit_length()) if length <= 256 else -(-length // 256) * 256


def _padded(
    rows: Sequence[Sequence[int]], width: int, pad: int = 0, *, left: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and positions, int32 [b, width]; positions are -1 at padding."""
    tokens = np.full((len(rows), width), pad, np.int32)
    positions = np.full((len(rows), width), -1, np.int32)
    for number, row in enumerate(rows):
        where = slice(width - len(row), width) if left else slice(0, len(row))
        tokens[number, where] = row
        positions[number, where] = np.arange(len(row))
    return tokens, positions


def read_weights(path: Path) -> dict[str, Any]:
    """A safetensors file as nested dicts of arrays, mapped, not read."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    data = np.memmap(path, np.uint8, "r", 8 + length)
    tree: dict[str, Any] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        *parents, last = name.split("/")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        assert math.prod(entry["shape"]) * DTYPES[entry["dtype"]].itemsize == end - begin, name
        place[last] = data[begin:end].view(DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return tree


def _manifest(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise NotPossibleError(
            f"{path} cannot be read ({error.strerror}): is the folder what lm export wrote, whole?"
        ) from None
    except ValueError as error:
        raise NotPossibleError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(found, dict) or "program" not in found:
        raise NotPossibleError(f"{path} is not what lm export wrote: it names no program")
    return found


def _verify(folder: Path, files: dict[str, Any]) -> None:
    for name, entry in files.items():
        path = folder / name
        if not path.is_file():
            raise NotPossibleError(f"{path} is missing")
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != entry["sha256"]:
            raise NotPossibleError(
                f"{path} is not the file that was exported: its SHA-256 is {found}"
            )


def main() -> int:
    parser = argparse.ArgumentParser(description="Runs the model in this folder.")
    add = parser.add_argument
    add("--text", "--prompt", required=True, help="- reads standard input")
    add("--text_pair", help="the second of two texts (classification)")
    add("--json", action="store_true", help="all that is known, as one JSON object")
    add("--max_new_tokens", type=int, default=64)
    add("--temperature", type=float, default=0.0, help="0 takes the likeliest token")
    add("--top_k", type=int, default=0)
    add("--top_p", type=float, default=1.0)
    add("--seed", type=int, default=0)
    add("--pooling", choices=["mean", "cls", "last"], default="mean", help="of an embedding")
    add("--normalize", action="store_true", help="an embedding of length 1")
    given = vars(parser.parse_args())
    text = sys.stdin.read() if given["text"] == "-" else given["text"]
    names: dict[str, tuple[str, ...]] = {
        "generate": ("max_new_tokens", "temperature", "top_k", "top_p", "seed"),
        "embed": ("pooling", "normalize"),
    }
    try:
        model = Artefact(Path(__file__).resolve().parent)
        if given["text_pair"] is not None and model.kind not in ("classify", "regress"):
            raise NotPossibleError("--text_pair is for a model that classifies pairs of texts")
        options = {name: given[name] for name in names.get(model.kind, ())}
        whole = text if given["text_pair"] is None else (text, given["text_pair"])
        [answer] = model([whole], **options)
    except NotPossibleError as error:
        print(f"run.py: {error}", file=sys.stderr)
        return 1
    if model.kind == "generate" and not given["json"]:
        print((text if not model.how["reads_source"] else "") + answer["text"])
    else:
        print(json.dumps(answer, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
