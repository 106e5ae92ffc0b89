"""This project's sampler over a policy that is loaded as the pipeline loads it."""

from pathlib import Path

import torch
from cases import Case, end_after
from shapes import Shape

from components.config import GenerationConfig
from components.generation.sampler import sample
from components.generation.sampling_params import SamplingParams
from components.models.loading import load_policy, start_ref

Answers = list[list[list[int]]]
"""By prompt, then sample, the token ids of a response, the end token included."""


class Ours:
    """Sample `case.samples` responses to every prompt; each call draws others."""

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
        self.model = load_policy(start_ref(directory, "main"), dtype=dtype, device=torch.device("cpu"))
        if case.ragged:
            end_after(self.model, shape, max_new_tokens / 2)
        stop_ids = frozenset([shape.end]) if case.stops else frozenset()
        self.law = SamplingParams(
            temperature=1.0, top_p=1.0, top_k=int(greedy), max_new_tokens=max_new_tokens, stop_ids=stop_ids
        )
        self.samples, self.seeded, self.pad = case.samples, 0, shape.pad

    def __call__(self, prompts: list[list[int]]) -> Answers:
        """Sample once."""
        seeds = (
            torch.arange(self.seeded, self.seeded + len(prompts) * self.samples)
            .view(len(prompts), self.samples)
            .tolist()
        )
        self.seeded += len(prompts) * self.samples
        batch_size = GenerationConfig().batch_size
        sampled = sample(
            self.model,
            prompts,
            seeds=seeds,
            law=self.law,
            pad_id=self.pad,
            batch_size=batch_size,
            on_batch=lambda answers: None,
        )
        answers: Answers = [[] for _ in prompts]
        for one in sampled:
            answers[one.prompt_index].append(one.token_ids)
        return answers
