"""YaRN: Llama 2 on texts twice as long as it was trained on.

lm reproduce experiments/yarn --scale=paper
"""

from __future__ import annotations

from typing import Any

PAPER: dict[str, Any] = {
    "title": "YaRN: Llama 2 7B at 8192 tokens",
    "reference": "B. Peng, J. Quesnelle, H. Fan, E. Shippole 2023, YaRN: Efficient Context Window "
    "Extension of Large Language Models; the released code's data",
    "summary": "Rotations slowed each by its own frequency, and some more training. There is no "
    "configuration of it here: lm has the linear scaling of rotations and Llama 3.1's, not YaRN's. "
    "The number is kept to say what one would have to come to.",
    "measures": {
        "perplexity": {
            "kind": "recorded",
            "names": ("8192",),
            "how": "lm has no YaRN scaling of rotations; train and measure with the released code",
        }
    },
    "claims": (
        {
            "id": "C6-yarn",
            "sentence": "Llama 2 7B, stretched from 4096 to 8192 tokens by YaRN, has a perplexity "
            "of 3.356 on documents of 8192 tokens.",
            "where": "the released code, data/proofpile-long-small-8k.csv",
            "published": 3.356,
            "unit": "perplexity on Proof-pile",
            "measure": "perplexity",
            "quantities": ("8192",),
            "check": {"kind": "within", "tolerance": 0.02},
            "why": "what linear interpolation differs from it by there (3.344)",
            "scale": "paper",
        },
    ),
}
