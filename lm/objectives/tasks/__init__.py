"""Tasks: what is learned from labelled examples, and how predictions become answers."""
