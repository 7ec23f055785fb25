"""What pretraining objectives do to rows of tokens before a model sees them: numpy, on the host.

Every function takes its random numbers from a `np.random.Generator` and nowhere else, so equal
generators give equal rows. None of them knows a model: see `Vocabulary` for what they know.
"""
