"""vLLM, called as the pipeline calls it if `generation.engine` says so."""

import contextlib
import os
from pathlib import Path
from typing import Any, Self

import torch
from cases import Case, end_bias
from ours import Answers
from shapes import EOS, Shape

from components.generation.sampling_params import SamplingParams
from components.generation.vllm import loaded
from components.models.loading import start_ref

LONGEST_PROMPT = 1024
CACHE_GIB = "2"
"""Memory for keys and values on a CPU; by default vLLM takes nearly all that a machine has."""


class Vllm:
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
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", CACHE_GIB)
        # Left to itself it keeps one processor free.
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", f"0-{torch.get_num_threads() - 1}")
        opening = loaded(
            start_ref(directory, "main"),
            dtype=str(dtype).removeprefix("torch."),
            longest=LONGEST_PROMPT + max_new_tokens,
        )
        self.held = contextlib.ExitStack()
        self.session = self.held.enter_context(opening)
        stop_ids = frozenset([EOS]) if case.ragged else frozenset()
        self.law = SamplingParams(
            temperature=1.0, top_p=1.0, top_k=int(greedy), max_new_tokens=max_new_tokens, stop_ids=stop_ids
        )
        self.further: dict[str, Any] = {"logit_bias": {EOS: end_bias(shape, max_new_tokens / 2)}} if case.ragged else {}
        self.samples, self.seeded = case.samples, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.held.close()

    def __call__(self, prompts: list[list[int]]) -> Answers:
        """Sample once."""
        seeds = (
            torch.arange(self.seeded, self.seeded + len(prompts) * self.samples)
            .view(len(prompts), self.samples)
            .tolist()
        )
        self.seeded += len(prompts) * self.samples
        answers: Answers = [[] for _ in prompts]
        for one in self.session.sample(prompts, seeds=seeds, law=self.law, on_batch=lambda batch: None, **self.further):
            answers[one.prompt_index].append(one.token_ids)
        return answers
