"""Weights in and out: other projects' checkpoints become workdirs, and workdirs theirs."""
