import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from components.config import LoraConfig, SoftPromptConfig
from components.models.adapters import with_fresh_adapter

VOCABULARY = 40
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    # Large weights make the distribution depend strongly on the context, so that a wrong cache or mask shows.
    "initializer_range": 0.4,
}


def _llama() -> Any:
    return LlamaForCausalLM(LlamaConfig(**SMALL))


def _qwen2() -> Any:
    """A head that is the embedding, and layers with a window shorter than prompt and response."""
    layers = ["full_attention", "sliding_attention", "sliding_attention"]
    return Qwen2ForCausalLM(
        Qwen2Config(**SMALL, tie_word_embeddings=True, use_sliding_window=True, sliding_window=5, layer_types=layers)
    )


def _qwen3() -> Any:
    """Heads whose size is not the hidden size over their number, and normalised queries and keys."""
    return Qwen3ForCausalLM(Qwen3Config(**SMALL, head_dim=12))


def _gemma2() -> Any:
    """Capped logits in attention and head, scaled embeddings, an own scale of the queries.

    Every other layer has a window.
    """
    return Gemma2ForCausalLM(
        Gemma2Config(
            **SMALL,
            head_dim=8,
            sliding_window=6,
            query_pre_attn_scalar=12,
            attn_logit_softcapping=4.0,
            final_logit_softcapping=6.0,
        )
    )


def _gemma3() -> Any:
    """Sliding layers with a window shorter than prompt and response, and full layers."""
    layers = ["sliding_attention", "full_attention", "sliding_attention"]
    return Gemma3ForCausalLM(
        Gemma3TextConfig(**SMALL, head_dim=8, sliding_window=6, layer_types=layers, tie_word_embeddings=True)
    )


def _mamba() -> Any:
    return MambaForCausalLM(
        MambaConfig(vocab_size=VOCABULARY, hidden_size=16, state_size=4, num_hidden_layers=2, initializer_range=0.4)
    )


def _adapted(lora: LoraConfig, base: Callable[[], Any]) -> Any:
    return _randomised(with_fresh_adapter(base(), lora, SoftPromptConfig()))


def _prompted(kind: str, base: Callable[[], Any]) -> Any:
    return with_fresh_adapter(base(), LoraConfig(), SoftPromptConfig.model_validate({"kind": kind, "num_tokens": 5}))


def _randomised(model: Any) -> Any:
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.2 * torch.randn_like(weight))
    return model


MODELS: dict[str, Callable[[], Any]] = {
    "llama": _llama,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "mamba": _mamba,
    "lora": lambda: _adapted(LoraConfig(rank=4, alpha=4), _llama),
    "dora": lambda: _adapted(LoraConfig(rank=4, alpha=4, kind="dora"), _llama),
    "prompt": lambda: _prompted("prompt", _llama),
    "prompt on gemma3": lambda: _prompted("prompt", _gemma3),
    "prompt on gemma2": lambda: _prompted("prompt", _gemma2),
    "prefix": lambda: _prompted("prefix", _llama),
    "prefix on qwen2": lambda: _prompted("prefix", _qwen2),
    "prefix on qwen3": lambda: _prompted("prefix", _qwen3),
    "prefix on gemma3": lambda: _prompted("prefix", _gemma3),
}


@pytest.fixture(params=MODELS)
def any_model(request: pytest.FixtureRequest) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return MODELS[request.param]().eval()


@pytest.fixture(scope="session")
def llama() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return _llama().eval()


@pytest.fixture
def prompts() -> list[list[int]]:
    chance = random.Random(5)
    return [[chance.randrange(2, VOCABULARY) for _ in range(length)] for length in (3, 11, 7, 7, 1, 9)]
