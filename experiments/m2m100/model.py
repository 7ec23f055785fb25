"""M2M-100 (Fan et al. 2021, section 5): the dense models 418M, 1.2B and 12B.

Pre-norm, ReLU, fixed sinusoids (fairseq's, two positions on), one table for encoder, decoder and
logits. The released training drops whole layers with a rate of 0.05 (LayerDrop), which lm does not.
418M has 484 M parameters with the vocabulary of 128,112 that was released; its name, 418 M, is
what half of that vocabulary would give. 12B: 24 layers a stack are what fairseq's examples/m2m_100
splits over devices; [from memory, check before quoting]: its width, heads and feed-forward, which
make 11.8 G.
"""

from __future__ import annotations

from typing import Any

from experiments import common

# (layers of each stack, width, feed-forward); 16 heads
SIZES = {
    "418m": (12, 1024, 4096),
    "1.2b": (24, 1024, 8192),
    "12b": (24, 4096, 16384),
}


def model(size: str) -> dict[str, Any]:
    num_layers, d_model, d_ff = common.of_size(size, SIZES)
    return {
        "architecture": "encoder_decoder",
        "vocab_size": 128112,
        "num_layers": num_layers,
        "d_model": d_model,
        "num_heads": 16,
        "d_ff": d_ff,
        "position": {"kind": "sinusoidal", "layout": "tensor2tensor", "offset": 2},
        "norm": {"kind": "layer", "placement": "pre", "epsilon": 1e-5},
        "activation": "relu",
        "scale_embeddings": True,
        "decoder_start_id": 2,
        "dropout": {"embedding": 0.1, "attention": 0.1, "residual": 0.1},
        "init": {"scale_residual": False},
    }
