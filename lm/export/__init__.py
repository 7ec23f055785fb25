"""Models handed over: a folder that runs without this package, in JAX alone.

artefact writes the folder; programs says what is exported; run is the script that goes with it,
which imports nothing of this package; readme is what the folder says of itself.
"""
