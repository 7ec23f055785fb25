"""What runs in the processes of our own contestants (`lm.bench.worker`)."""
