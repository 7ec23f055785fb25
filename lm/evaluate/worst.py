"""Examples worth looking at: the most confident errors of a task, the worst texts, as a table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from lm.data.examples_read import Example
from lm.evaluate import html
from lm.evaluate.answers import Answered
from lm.evaluate.html import Html, element
from lm.evaluate.metrics.answers import squad_chinese, token_f1
from lm.evaluate.metrics.chrf import chrf_counts, chrf_of_counts
from lm.evaluate.selection import Answer, joined
from lm.objectives.tasks.instruction import messages_of
from lm.objectives.tasks.tokens import words_of

# Rows of a table, and characters of a cell.
MOST, LETTERS = 20, 700


class Shown(NamedTuple):
    """A table of examples under a title: its head, and rows with how bad each is, worst first."""

    title: str
    head: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    numbers: tuple[int, ...]
    note: str = ""

    def table(self) -> Html:
        """Labels take little room beside the texts that they are of."""
        short = ("expected", "predicted") if self.head[0] == "input" else ()
        texts = [place for place, name in enumerate(self.head)
                 if place not in self.numbers and name not in short]  # fmt: skip
        return html.table(self.head, self.rows, numbers=self.numbers, texts=texts)


def worst(answered: Answered, most: int = MOST) -> list[Shown]:
    """The tables of a split: what was answered worst; of texts also what is ordinary."""
    cases = list(zip(answered.examples, answered.truths, answered.answers))
    return _KINDS[answered.kind](cases, most)


Case = tuple[Example, Answer, Answer]


def _labels(cases: Sequence[Case], most: int) -> list[Shown]:
    wrong = [case for case in cases if case[1]["label"] != case[2]["label"]]
    wrong.sort(key=lambda case: -_p(case[2], case[2]["label"]))
    rows = [
        (_inputs(example, "text", "text_pair", "choices"), _named(example, truth["label"]),
         _named(example, answer["label"]), _p(answer, answer["label"]), _p(answer, truth["label"]))
        for example, truth, answer in wrong[:most]
    ]  # fmt: skip
    head = ("input", "expected", "predicted", "probability", "of the expected")
    note = f"{len(wrong):,} of {len(cases):,} answers are wrong."
    return [Shown("Most confident errors", head, rows, (3, 4), note)]


def _p(answer: Answer, label: Any) -> float:
    """The probability of a label, by name, or of a choice, by number."""
    return float(answer["probabilities"][label])


def _named(example: Example, label: Any) -> Any:
    """A label, or the choice of that number."""
    choices = example.values.get("choices")
    return label if choices is None else f"{label}: {choices[label]}"


def _many(cases: Sequence[Case], most: int) -> list[Shown]:
    def differing(case: Case) -> set[str]:
        return set(case[1]["labels"]) ^ set(case[2]["labels"])

    wrong = sorted((c for c in cases if differing(c)), key=lambda c: -len(differing(c)))
    rows = [
        (_inputs(example, "text", "text_pair"), ", ".join(truth["labels"]) or "none",
         ", ".join(answer["labels"]) or "none", len(differing((example, truth, answer))))
        for example, truth, answer in wrong[:most]
    ]  # fmt: skip
    note = f"{len(wrong):,} of {len(cases):,} examples have a wrong label."
    head = ("input", "expected", "predicted", "wrong labels")
    return [Shown("Most wrong labels", head, rows, (3,), note)]


def _numbers(cases: Sequence[Case], most: int) -> list[Shown]:
    far = sorted(cases, key=lambda case: -abs(case[1]["value"] - case[2]["value"]))
    rows = [
        (_inputs(example, "text", "text_pair"), truth["value"], answer["value"],
         answer["value"] - truth["value"])
        for example, truth, answer in far[:most]
    ]  # fmt: skip
    return [Shown("Largest errors", ("input", "expected", "predicted", "error"), rows, (1, 2, 3))]


def _tags(cases: Sequence[Case], most: int) -> list[Shown]:
    def errors(case: Case) -> int:
        return sum(t != a for t, a in zip(case[1]["tags"], case[2]["tags"]))

    wrong = sorted((case for case in cases if errors(case)), key=lambda case: -errors(case))
    rows = []
    for example, truth, answer in wrong[:most]:
        words: list[Any] = []
        for word, tag, said in zip(words_of(example), truth["tags"], answer["tags"]):
            words.append(word if tag == said else element("mark", f"{word} ({tag}, not {said})"))
            words.append(" ")
        rows.append((Html("".join(map(html.text, words))), errors((example, truth, answer))))
    note = f"{len(wrong):,} of {len(cases):,} sentences have a wrong tag; here with the right one."
    return [Shown("Sentences with most errors", ("sentence", "errors"), rows, (1,), note)]


def _spans(cases: Sequence[Case], most: int) -> list[Shown]:
    def f1(case: Case) -> float:
        golds = case[1]["answers"] or [""]
        # Words of the one metric, or Chinese characters of the other.
        best = max(token_f1(case[2]["answer"], gold) for gold in golds)
        return max(best, squad_chinese([case[2]["answer"]], [golds])["f1"] / 100)

    wrong = [(f1(case), case) for case in cases]
    wrong = [(value, case) for value, case in wrong if value < 1]
    wrong.sort(key=lambda item: (item[0], -(item[1][2]["score"] or 0.0)))
    rows = [
        (example.values["question"], _cut(example.values["context"]),
         " / ".join(dict.fromkeys(truth["answers"])) or "no answer",
         answer["answer"] or "no answer", value, answer["score"])
        for value, (example, truth, answer) in wrong[:most]
    ]  # fmt: skip
    note = (
        f"{len(wrong):,} of {len(cases):,} answers are not exactly right. The score is the span's "
        "log-probability."
    )
    head = ("question", "context", "expected", "predicted", "F1", "score")
    return [Shown("Most confident wrong answers", head, rows, (4, 5), note)]


def _texts(cases: Sequence[Case], most: int) -> list[Shown]:
    each = [(chrf_of(answer["text"], truth["texts"]), case)
            for case in cases for _, truth, answer in [case]]  # fmt: skip
    each.sort(key=lambda item: item[0])
    head = ("source", "reference", "output", "chrF")
    middle = max(0, len(each) // 2 - most // 8)
    return [
        Shown("Worst outputs", head, list(_text_rows(each[:most])), (3,), "By chrF of each alone."),
        Shown("Ordinary outputs", head, list(_text_rows(each[middle : middle + most // 4])), (3,),
              "Around the median of chrF."),
    ]  # fmt: skip


def chrf_of(text: str, references: Sequence[str]) -> float:
    """chrF of one text, of words where they are split by BPE."""
    counts = chrf_counts(joined(text), [joined(reference) for reference in references])
    return chrf_of_counts(counts)["chrf"]


def _text_rows(items: Sequence[tuple[float, Case]]) -> Iterator[tuple[Any, ...]]:
    for value, (example, truth, answer) in items:
        source = _source(example)
        yield _cut(source), _cut("\n\n".join(truth["texts"])), _cut(answer["text"]), value


def _source(example: Example) -> str:
    values = example.values
    if "text" in values:
        text = values["text"]
        return text if isinstance(text, str) else " ".join(text)
    return "\n".join(f"{m['role']}: {m['content']}" for m in messages_of(example)[:-1])


def _inputs(example: Example, *roles: str) -> str:
    parts = []
    for role in roles:
        value = example.values.get(role)
        if isinstance(value, (list, tuple)):
            parts += [f"{number}: {one}" for number, one in enumerate(value)]
        elif value is not None:
            parts.append(str(value))
    return _cut("\n\n".join(parts))


def _cut(text: str) -> str:
    """The beginning of a long text, and how much more there is."""
    if len(text) <= LETTERS:
        return text
    return f"{text[:LETTERS]} … ({len(text) - LETTERS:,} more characters)"


_KINDS: dict[str, Callable[[Sequence[Case], int], list[Shown]]] = {
    "classification": _labels,
    "multi_label": _many,
    "regression": _numbers,
    "token_classification": _tags,
    "question_answering": _spans,
    "multiple_choice": _labels,
    "sequence_to_sequence": _texts,
    "instruction": _texts,
}
