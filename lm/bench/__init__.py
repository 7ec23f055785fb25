"""How fast: `lm` against its peers on one machine, in interleaved rounds anyone can repeat.

`harness` compares contestants and knows nothing of models; a suite (`train`, `decode`, `data` ...)
says who they are; `ours` and `peers` are what runs in a process of each contestant's own. Nothing
here imports JAX or torch but those two.
"""
