"""The table of parity: family x what is compared, with the largest relative error measured.

python -m tests.parity.table        (make parity-table installs what it needs)
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor

from tests.parity.cases import CASES, batches
from tests.parity.errors import AS_EXACT, CLEAR, TOLERANCE, Error
from tests.parity.measure import study

HEADERS = ("logits", "hidden states", "gradients", "AdamW step", "generation", "round trip")
COLUMNS = ("logits", "hidden", "gradients", "step")
NOTE = f"""
Relative error: the largest difference in a tensor over the largest number in it, of lm and
transformers, both in float32, with random weights; the worst tensor of all of a family's models,
heads included. Up to {TOLERANCE:.1e} is float32's rounding. ^ beyond it, and float64 decides: lm is
as near the true value as transformers is (at most {AS_EXACT:.0f} times as far). ! is a failure.
Generation: greedy tokens that are the same, of all; the closest choice was {CLEAR} times wider than
the differences, or more. Round trip: tensors that come back from lm bit for bit, of all, and
transformers computes from the files that lm writes what it did before.

n/a: BERT, RoBERTa and ELECTRA look both ways and XLNet predicts places in any order: they fill in
what is missing, and none of them is generated from here.
For what no reference is public, the one with the nearest mechanics stands in: GPT-Neo, with its
alternating dense and local layers, for GPT-3; T5 v1.1's decoder, its cross-attention silenced, for
LaMDA (relative attention, gated GELU); Marian for the original Transformer.
"""


def row(name: str) -> tuple[list[str], bool]:
    """The cells of one family, and whether all is well."""
    cases = [case for case in CASES if case.row == name]
    worst: dict[str, list[Error]] = {column: [] for column in COLUMNS}
    same = total = kept = tensors = 0
    good = True
    for case in cases:
        for inputs in batches(case).values():
            columns = study(case).compare(inputs)
            good &= all(error.good for error in columns["loss"].values())
            for column, found in worst.items():
                found += columns[column].values()
        if case.generation is not None:
            tokens, theirs, apart = study(case, decisive=True).generate()
            pairs = [p for a, b in zip(tokens, theirs.tokens) for p in zip(a, b)]
            same, total = same + sum(a == b for a, b in pairs), total + len(pairs)
            good &= apart * CLEAR <= theirs.lead
        problems = study(case).round_trip()
        for problem in problems:
            print(f"{case.name}: {problem}", file=sys.stderr)
        tensors += len(study(case).converted.plan.rules)
        kept += len(study(case).converted.plan.rules) - len(problems)
        good &= not problems
    cells = [cell(found) for found in worst.values()]
    good &= same == total and not any("!" in text for text in cells)
    cells.append(f"{same}/{total}" if total else "n/a")
    cells.append(f"{kept}/{tensors}")
    return cells, good


def cell(found: list[Error]) -> str:
    """The largest error, marked where float64 had to decide and where it is too large."""
    largest = max(error.apart for error in found)
    mark = "" if largest <= TOLERANCE else "^"
    return f"{largest:.1e}{mark if all(error.good for error in found) else ' !'}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", help="families (default all)")
    wanted = parser.parse_args().rows
    rows = list(dict.fromkeys(case.row for case in CASES))
    unknown = [name for name in wanted if name not in rows]
    if unknown:
        parser.error(f"no family {', '.join(unknown)}; there are: {', '.join(rows)}")
    print(f"| family | {' | '.join(HEADERS)} |")
    print("|---" * (1 + len(HEADERS)) + "|")
    failed = False
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        for name, (cells, good) in zip(wanted or rows, pool.map(row, wanted or rows)):
            print(f"| {name}{'' if good else ' !'} | {' | '.join(cells)} |", flush=True)
            failed |= not good
    print(NOTE)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
