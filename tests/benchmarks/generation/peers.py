"""transformers' own two ways to sample: `generate`, and `generate_batch`, its continuous batching."""

from math import ceil
from pathlib import Path
from typing import Any

import torch
from cases import Case, end_after
from ours import Answers
from shapes import Shape
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.generation import ContinuousBatchingConfig
from transformers.utils import logging


class Peer:
    """A policy as a user of transformers loads it, to sample `case.samples` responses from its whole distribution."""

    def __init__(
        self,
        shape: Shape,
        directory: Path,
        case: Case,
        *,
        dtype: torch.dtype,
        max_new_tokens: int,
        greedy: bool = False,
    ) -> None:
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        self.model: Any = AutoModelForCausalLM.from_pretrained(
            directory, dtype=dtype, attn_implementation="sdpa"
        ).eval()
        if case.ragged:
            end_after(self.model, shape, max_new_tokens / 2)
        end_id = shape.end if case.stops else None
        # What is left out below is taken from these.
        self.model.config.eos_token_id = self.model.generation_config.eos_token_id = end_id
        self.asked = {
            "max_new_tokens": max_new_tokens,
            "num_return_sequences": case.samples,
            "eos_token_id": end_id,
            "pad_token_id": shape.pad,
        } | ({"do_sample": False} if greedy else {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0})
        self.samples, self.max_new_tokens = case.samples, max_new_tokens
        torch.manual_seed(1)


class Generate(Peer):
    """`generate` over batches of prompts that are padded on the left."""

    def __call__(self, prompts: list[list[int]], *, batch: int, cache: str, by_length: bool) -> Answers:
        """Sample once.

        `batch` prompts at a time, in the given order or the longest first, with a cache that transformers names.
        """
        order = (
            sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
            if by_length
            else list(range(len(prompts)))
        )
        settings = GenerationConfig(**self.asked, cache_implementation=cache)
        answers: Answers = [[] for _ in prompts]
        for start in range(0, len(prompts), batch):
            members = order[start : start + batch]
            width = max(len(prompts[index]) for index in members)
            pad = self.asked["pad_token_id"]
            ids = torch.tensor([[pad] * (width - len(prompts[index])) + prompts[index] for index in members])
            mask = torch.tensor([[0] * (width - len(prompts[index])) + [1] * len(prompts[index]) for index in members])
            found = self.model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)[
                :, width:
            ].tolist()
            for row, tokens in enumerate(found):
                answers[members[row // self.samples]].append(_until_end(tokens, self.asked["eos_token_id"]))
        return answers


class GenerateBatch(Peer):
    """`generate_batch` with a cache that holds all answers."""

    def __call__(self, prompts: list[list[int]], *, page: int, rows: int, tokens: int) -> Answers:
        """Sample once: `page` positions per page, at most `rows` responses and `tokens` tokens per forward pass.

        Raises:
            RuntimeError: It gave fewer answers than it was asked for, which it only logs.
        """
        longest = max(len(prompt) for prompt in prompts) + self.max_new_tokens
        blocks = len(prompts) * self.samples * (ceil(longest / page) + 1)
        # Left to itself it takes 60 % of all memory, whose pages it then faults in.
        batching = ContinuousBatchingConfig(
            page_size=page,
            num_blocks=blocks,
            max_requests_per_batch=rows,
            max_batch_tokens=tokens,
            auto_switch_to_flash=False,
        )
        found = self.model.generate_batch(
            prompts, generation_config=GenerationConfig(**self.asked), continuous_batching_config=batching
        )
        answered = list(found.values())
        expected = len(prompts) * self.samples
        errors = [one.error for one in answered if one.error is not None]
        if len(answered) != expected or errors:
            raise RuntimeError(f"generate_batch returned {len(answered)} of {expected} responses; errors: {errors[:1]}")
        return [
            [one.generated_tokens for one in answered[at : at + self.samples]]
            for at in range(0, expected, self.samples)
        ]


def _until_end(tokens: list[int], end_id: int | None) -> list[int]:
    return tokens[: tokens.index(end_id) + 1] if end_id in tokens else tokens
