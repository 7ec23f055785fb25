"""Answers of a trained run: a label, a span, a translation, a reply. `lm.load` is the way in."""
