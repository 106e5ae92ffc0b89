"""The files from which both sides' rounds start.

A policy and a reward model of random weights with their tokenizer, and prompts.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from shapes import EOS, FIRST, PAD, PROFILES, SHAPES, Shape, tokenizer

USER, ASSISTANT = FIRST, FIRST + 1
"""Ordinary words that begin a turn."""
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    f"{{% if message['role'] == 'assistant' %}} t{ASSISTANT} {{{{ message['content'] }}}} </s>"
    f"{{% else %}}t{USER} {{{{ message['content'] }}}}{{% endif %}}"
    "{% endfor %}"
    f"{{% if add_generation_prompt %}} t{ASSISTANT}{{% endif %}}"
)
PROFILE = PROFILES["hh-rlhf"]
CONSTANT = 1.0
"""First coordinate of every embedding, large beside the others: what the head makes of it is a bias."""


@dataclass(frozen=True)
class Inputs:
    """The paths of the files, and the limits of both sides."""

    policy: Path
    reward_model: Path
    prompts: Path
    held_out: Path
    max_prompt_tokens: int
    max_new_tokens: int


def make_inputs(
    place: Path,
    *,
    shape: str,
    num_prompts: int,
    num_held_out: int,
    max_prompt_tokens: int,
    max_new_tokens: int,
    seed: int,
) -> Inputs:
    """Write the models and the prompts.

    Args:
        place: An empty directory.
        shape: Key of `SHAPES`, for policy and reward model.
        num_prompts: Prompts of the round.
        num_held_out: Prompts of the comparison.
        max_prompt_tokens: Longest prompt, its turn's words included.
        max_new_tokens: Longest answer; shorter ones end as those of HH-RLHF do.
        seed: Of the prompts.
    """
    from transformers import AutoModelForSequenceClassification

    found = Inputs(
        place / "policy",
        place / "reward_model",
        place / "prompts.jsonl",
        place / "held_out.jsonl",
        max_prompt_tokens,
        max_new_tokens,
    )
    _save(_policy(SHAPES[shape]), SHAPES[shape], found.policy)
    _save(_random(AutoModelForSequenceClassification, SHAPES[shape], num_labels=1), SHAPES[shape], found.reward_model)
    chance = np.random.default_rng(seed)
    for path, number in ((found.prompts, num_prompts), (found.held_out, num_held_out)):
        lengths = np.minimum(
            chance.lognormal(np.log(PROFILE.prompt), PROFILE.spread, number).astype(int) + 1, max_prompt_tokens - 2
        )
        texts = [
            " ".join(f"t{token}" for token in chance.integers(ASSISTANT + 1, SHAPES[shape].vocabulary, length))
            for length in lengths
        ]
        path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    return found


def _policy(shape: Shape) -> Any:
    """Return a model of random words with one rate of ending everywhere, and so with the profile's median length."""
    from transformers import AutoModelForCausalLM

    model = _random(AutoModelForCausalLM, shape)
    rate = 1 - 0.5 ** (1 / PROFILE.answer)
    with torch.no_grad():
        embedding = model.get_input_embeddings().weight
        embedding[:, 0] = CONSTANT
        hidden = model.model(torch.arange(FIRST, FIRST + 512)[None]).last_hidden_state[0]
        others = torch.logsumexp(hidden @ embedding.T, dim=1)
        embedding[EOS] = 0
        embedding[EOS, 0] = ((np.log(rate / (1 - rate)) + others) / hidden[:, 0]).median()
    return model


def _random(kind: Any, shape: Shape, **settings: Any) -> Any:
    """Return a Llama of the shape's sizes: for Qwen2, transformers reads any tokenizer as Qwen2's."""
    from transformers import LlamaConfig

    config = LlamaConfig(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
        intermediate_size=shape.ffn,
        vocab_size=shape.vocabulary,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=4096,
        pad_token_id=PAD,
        eos_token_id=EOS,
        bos_token_id=None,
        **settings,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return kind.from_config(config, dtype=torch.float32)


def _save(model: Any, shape: Shape, path: Path) -> None:
    model.save_pretrained(path)
    words = tokenizer(shape.vocabulary)
    words.chat_template = CHAT_TEMPLATE
    words.save_pretrained(path)
