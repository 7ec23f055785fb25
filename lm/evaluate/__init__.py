"""How good a model is: metrics on validation data, log-probabilities of given texts."""
