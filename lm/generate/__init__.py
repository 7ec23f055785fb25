"""What a model says: choosing tokens, the decoding loop, and text with stop strings."""
