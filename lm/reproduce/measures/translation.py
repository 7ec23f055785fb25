"""BLEU of translations: the last checkpoints averaged, beam search over a test set, words compared
as papers with tokenised text did."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lm.config.checks import at_least, check
from lm.errors import UserError
from lm.reproduce.measures.base import Found, Inputs, MeasureBase, digest_of

# Shown in the report, spread over the test set.
_EXAMPLES = 8


@dataclass(frozen=True)
class Translation(MeasureBase):
    """Tokenised BLEU in per cent on the lines of `source` and `target`, which are split into words
    by white space and, inside words, by `joiner` (fastBPE's "@@ "), undone before scoring.

    `average` is how many of the last checkpoints are averaged, 1 none; a hypothesis' score is its
    log-probability over its length to the power of `length_penalty`, as in fairseq.
    """

    source: str = ""
    target: str = ""
    average: int = 1
    beams: int = 5
    length_penalty: float = 1.0
    max_new_tokens: int = 100
    joiner: str = "@@ "
    kind: Literal["translation"] = "translation"

    def __post_init__(self) -> None:
        check(len(self.runs) > 0, "BLEU is one of runs: runs names none")
        check(bool(self.source and self.target), "translation needs source and target, two files")
        at_least(self, 1, "average", "beams", "max_new_tokens")

    def files(self) -> tuple[str, ...]:
        return (self.source, self.target)

    def measure(self, inputs: Inputs) -> Found:
        from lm.evaluate.metrics.text import bleu_tokenised

        paths = [inputs.data_root / name for name in self.files()]
        hashes = digest_of(paths)
        sources, targets = (path.read_text(encoding="utf-8").splitlines() for path in paths)
        if len(sources) != len(targets):
            raise UserError(f"{paths[0]} has {len(sources)} lines and {paths[1]} {len(targets)}")
        references = [self._joined(line) for line in targets]
        values: dict[str, list[float | None]] = {}
        examples: list[dict[str, str]] = []
        scores: dict[str, Any] = {}
        for name, workdirs in inputs.runs.items():
            values[name] = []
            for number, workdir in enumerate(workdirs):
                model = self._averaged(workdir, inputs.scratch / f"{name}-{number}-mean")
                said = [self._joined(line) for line in self._translate(model, sources)]
                found = bleu_tokenised(said, references)
                scores[f"{name}-{number}"] = found
                values[name].append(found["bleu_tokenised"])
                inputs.report(f"{name}, run {number}: BLEU {found['bleu_tokenised']:.2f}")
                examples = examples or self._examples(sources, references, said)
        files = [{"path": path, "sha256": found} for path, found in zip(self.files(), hashes)]
        details = {"scores": scores, "examples": examples, "files": files}
        words = f"{len(sources)} sentences, beam {self.beams}, last {self.average} checkpoints"
        return Found(values, details, (words,))

    def _examples(
        self, sources: list[str], references: list[str], said: list[str]
    ) -> list[dict[str, str]]:
        step = max(1, len(said) // _EXAMPLES)
        rows = list(zip(sources[::step], references[::step], said[::step]))[:_EXAMPLES]
        return [
            {"source": self._joined(source), "reference": reference, "translation": translation}
            for source, reference, translation in rows
        ]

    def _averaged(self, workdir: Path, output: Path) -> Path:
        from lm.train.averaging import average
        from lm.train.checkpoint import Checkpoints
        from lm.train.metrics import read_jsonl
        from lm.train.workdir import CHECKPOINTS, METRICS

        if self.average == 1:
            return workdir
        # A run that was stopped on the way has one more, between two evaluations.
        evaluated = {r["step"] for r in read_jsonl(workdir / METRICS) if r["split"] != "train"}
        saved = Checkpoints(workdir / CHECKPOINTS, report=lambda line: None).steps()
        steps = [step for step in saved if step in evaluated][-self.average :]
        if len(steps) < self.average:
            raise UserError(
                f"{workdir} has {len(steps)} checkpoints of evaluations, and {self.average} are to "
                "be averaged: raise checkpoint.keep_last"
            )
        # Made anew: checkpoints may have changed since.
        shutil.rmtree(output, ignore_errors=True)
        output.parent.mkdir(parents=True, exist_ok=True)
        average(workdir, output, steps=steps)
        return output

    def _translate(self, workdir: Path, sources: list[str]) -> list[str]:
        from lm.generate.beam import beam_search
        from lm.generate.beam_config import BeamConfig
        from lm.generate.text import encode_source
        from lm.train.workdir import load_run

        run = load_run(workdir)
        tokenizer, data = run.tokenizer, run.config.data
        found = beam_search(
            run.model,
            run.params,
            [encode_source(tokenizer, text, data) for text in sources],
            beams=BeamConfig(num_beams=self.beams, length_penalty=self.length_penalty),
            max_new_tokens=self.max_new_tokens,
            eos_id=tokenizer.eos_id,
            vocab_size=tokenizer.vocab_size,
        )
        said = []
        for best, *_ in found:
            tokens = [token for token in best.tokens if token != tokenizer.eos_id]
            said.append(tokenizer.decode(tokens))
        return said

    def _joined(self, line: str) -> str:
        return (line + " ").replace(self.joiner, "").strip() if self.joiner else line.strip()
