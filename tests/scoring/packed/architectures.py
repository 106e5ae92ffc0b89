"""Small models that can and cannot be packed, and the rows that they read."""

from typing import Any

import torch
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    GraniteConfig,
    LlamaConfig,
    MixtralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

SMALL = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 160,
    "initializer_range": 0.3,
}
PROMPTS = [[5, 6, 7, 8], [5, 6, 7, 8], [9], [9], [10, 11]]
RESPONSES = [[1, 2], [3, 4, 5, 6, 7], [8], [2, 3], [4, 4, 4]]
PACKED = {
    "llama": LlamaConfig(**SMALL),
    "llama with biases": LlamaConfig(**SMALL, attention_bias=True, mlp_bias=True),
    "qwen2 tied": Qwen2Config(**SMALL, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SMALL, head_dim=12),
    "gemma3": Gemma3TextConfig(
        **SMALL, head_dim=8, sliding_window=64, layer_types=["sliding_attention", "full_attention"]
    ),
    "mixture of experts": MixtralConfig(**SMALL, num_local_experts=4, num_experts_per_tok=2),
    "phi3": Phi3Config(**SMALL, pad_token_id=0),
}
PADDED = {
    "gemma2": (Gemma2Config(**SMALL, head_dim=8, sliding_window=64), "Gemma2ForCausalLM uses eager attention"),
    "granite": (GraniteConfig(**SMALL, logits_scaling=4.0), "its logits are not the plain output of its head"),
    "gemma3 capped": (
        Gemma3TextConfig(**SMALL, head_dim=8, final_logit_softcapping=5.0),
        "its logits are not the plain output of its head",
    ),
    "llama with dropout": (LlamaConfig(**SMALL, attention_dropout=0.1), "its attention has dropout"),
}


def build(auto: Any, config: Any) -> Any:
    """Build a model of random weights, always the same: `auto` is transformers' class for its task."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return auto.from_config(config, attn_implementation="eager" if config.model_type == "gemma2" else "sdpa")
