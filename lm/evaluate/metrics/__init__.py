"""Task metrics: predictions and references in, named figures out.

`lm.evaluate.metrics.registry.metric` finds them by name. Only numpy is needed, but for BLEU
and ROUGE (`pip install 'lm[eval]'`). Figures are in the unit of the tool they agree with: shares
between 0 and 1 (scikit-learn, seqeval, rouge-score, pass@k), or per cent (SQuAD, CMRC, BLEU, chrF).
"""
