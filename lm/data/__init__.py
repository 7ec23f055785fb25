"""What is read: sources -> cleaned documents -> tokens -> rows of fixed length -> batches.

`lm.data.pipeline.prepare_dataset` is the way in. Everything here is numpy on the host and
imports neither JAX models nor objectives: what a row becomes is a function handed in.
"""
