import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

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
    return Qwen2ForCausalLM(Qwen2Config(**SMALL))


def _gemma3() -> Any:
    """Sliding layers with a window shorter than prompt and response, and full layers."""
    layers = ["sliding_attention", "full_attention", "sliding_attention"]
    return Gemma3ForCausalLM(Gemma3TextConfig(**SMALL, head_dim=8, sliding_window=6, layer_types=layers))


def _adapted() -> Any:
    return get_peft_model(_llama(), LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"))


MODELS: dict[str, Callable[[], Any]] = {"llama": _llama, "qwen2": _qwen2, "gemma3": _gemma3, "adapter": _adapted}


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
