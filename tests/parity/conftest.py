"""The whole folder needs the reference: transformers and torch (`make test-parity`)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

# Those that do without, one of which says why the others are not there.
ALONE = ("test_reference.py", "test_tokenizers.py")

if not all(importlib.util.find_spec(name) for name in ("torch", "transformers", "safetensors")):
    files = Path(__file__).parent.glob("test_*.py")
    collect_ignore = [path.name for path in files if path.name not in ALONE]
