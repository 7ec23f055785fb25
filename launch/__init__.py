"""Where an experiment runs: clusters, queues and sweeps. `lm train` needs nothing of this."""
