"""One file per kind of tokenizer; `lm.data.tokenizer` is the way in."""
