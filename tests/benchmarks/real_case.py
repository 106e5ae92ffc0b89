"""A real model from a local directory, and real preference pairs in its tokens, in place of `shapes.py`'s made-up ones.

Has what the systems read of a `Shape`: `build`, `vocabulary`, `pad` and `end`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from shapes import CPU, Triple

from components.config import PolicyConfig
from components.data.preference_file import load_seed_pairs
from components.models.loading import start_ref
from components.models.tokens import ChatTokenizer, NotRendered, load_chat


class RealModel:
    """A chat model in a local directory."""

    def __init__(self, directory: str) -> None:
        self.directory = Path(directory)
        self.chat: ChatTokenizer = load_chat(start_ref(self.directory, "main"), PolicyConfig())
        self.pad, self.end = self.chat.pad_id, min(self.chat.stop_ids)

    def build(self, dtype: torch.dtype, device: torch.device = CPU) -> Any:
        """Return the model."""
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(self.directory, dtype=dtype, attn_implementation="sdpa")
        return model.to(device)

    def as_dataset(self, pairs: Sequence[Triple]) -> list[dict[str, Any]]:
        """Return pairs as a trainer reads them that has tokenised them already."""
        return [{"prompt_ids": pair.prompt, "chosen_ids": pair.chosen, "rejected_ids": pair.rejected} for pair in pairs]

    def tokenizer(self) -> Any:
        """Return the model's tokenizer."""
        return self.chat.tokenizer

    def prompts(self, source: str, count: int) -> list[list[int]]:
        """Return the prompts of the first pairs, first turns only, as the policy reads them."""
        pairs = load_seed_pairs(source, split="train").pairs
        first = [pair.messages[:1] for pair in pairs if pair.messages[0]["role"] == "user"]
        return [self.chat.prompt_ids(messages) for messages in first[:count]]

    def triples(self, source: str, count: int, *, longest: int) -> list[Triple]:
        """Return the first pairs whose prompt and longer answer have at most `longest` tokens."""
        found: list[Triple] = []
        for pair in load_seed_pairs(source, split="train").pairs:
            if pair.chosen is None or pair.rejected is None or not pair.chosen.strip() or not pair.rejected.strip():
                continue
            prompt = self.chat.prompt_ids(pair.messages)
            room = longest - len(prompt)
            try:
                chosen, rejected = (
                    self.chat.response_ids(pair.messages, text, max_tokens=longest)
                    for text in (pair.chosen, pair.rejected)
                )
            except NotRendered:
                continue
            if max(len(chosen), len(rejected)) <= room and chosen != rejected:
                found.append(Triple(prompt, chosen, rejected))
            if len(found) == count:
                return found
        raise ValueError(f"{source} has {len(found)} pairs of at most {longest} tokens: {count} are needed")
