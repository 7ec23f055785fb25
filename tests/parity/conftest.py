"""The whole folder needs the reference: transformers and torch (`make test-parity`)."""

from __future__ import annotations

import importlib.util

# A folder that is not collected would look as if it were not there, so one file says why.
if not all(importlib.util.find_spec(name) for name in ("torch", "transformers")):
    collect_ignore = [
        "test_families.py",
        "test_convert.py",
        "test_electra.py",
        "test_objectives.py",
        "test_bench_peer.py",
    ]
