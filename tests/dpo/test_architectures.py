"""Instruction models of other shapes go through whole rounds.

Trained, saved, loaded again, and the next round starts at ln 2.

That each shape is scored and sampled exactly is tested on the functions, in tests/generation.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, Gemma2Config, Gemma3TextConfig, OPTConfig, Qwen2Config, Qwen3Config

from components.artifacts import read_json
from components.config import LoraConfig, SoftPromptConfig
from components.dpo.stage import run
from components.models.loading import start_ref, trained_ref
from components.records import ModelRef, TrainRequest

Make = Callable[..., TrainRequest]
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 160,
    "initializer_range": 0.1,
}
SHAPES: dict[str, Callable[..., Any]] = {
    "qwen2 tied": lambda **words: Qwen2Config(**SMALL, **words, tie_word_embeddings=True),
    "qwen3 untied": lambda **words: Qwen3Config(**SMALL, **words, head_dim=12, tie_word_embeddings=False),
    "gemma2 capped": lambda **words: Gemma2Config(
        **SMALL, **words, head_dim=8, sliding_window=12, attn_logit_softcapping=5.0
    ),
    "gemma3 sliding": lambda **words: Gemma3TextConfig(
        **SMALL, **words, head_dim=8, sliding_window=12, layer_types=["sliding_attention", "full_attention"]
    ),
}
SHAPES["opt with dropout"] = lambda **words: OPTConfig(
    **words,
    hidden_size=32,
    ffn_dim=48,
    word_embed_proj_dim=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=160,
    init_std=0.1,
    dropout=0.1,
    attention_dropout=0.1,
)
WAYS: dict[str, dict[str, Any]] = {
    "full": {"zero_stage": 3, "gradient_checkpointing": True},
    "lora": {"lora": LoraConfig(rank=4, alpha=8)},
    "prefix": {"soft_prompt": SoftPromptConfig(kind="prefix", num_tokens=4)},
}


@pytest.fixture(scope="module", params=SHAPES)
def start(
    request: pytest.FixtureRequest, starter_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> ModelRef:
    """A random model of a shape, with the starter's tokenizer and chat template."""
    from transformers import AutoModelForCausalLM

    directory = tmp_path_factory.mktemp("shape") / "model"
    tokenizer = AutoTokenizer.from_pretrained(starter_directory)
    words = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
    }
    with torch.random.fork_rng():
        torch.manual_seed(5)
        AutoModelForCausalLM.from_config(SHAPES[request.param](**words)).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return start_ref(directory, revision="main")


@pytest.mark.parametrize("way", WAYS)
def test_two_rounds_of_another_architecture_chain(
    way: str, start: ModelRef, make_request: Make, tmp_path: Path
) -> None:
    policy = start
    for number in (1, 2):
        out = tmp_path / str(number)
        out.mkdir()
        run(make_request(policy=policy, reference=policy, learning_rate=3e-3, **WAYS[way]), out)
        trained = read_json(out / "train.json")
        assert trained["start_digest"] == trained["reference_digest"] == policy.digest
        assert trained["ln2_checked"] is (number == 2 or way != "prefix")
        policy = trained_ref(out, policy, number)
    assert trained["first_loss"] == pytest.approx(math.log(2), abs=1e-4)
