"""Engines that sample responses: this project's own loop over a loaded policy, or vLLM in a process of its own.

Knows no text and no stage.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

from components.config import PolicyConfig, SamplingEngine
from components.generation import vllm
from components.generation.paths import SamplingPath, sampling_path
from components.generation.sampler import Sampled, sample
from components.generation.sampling_params import SamplingParams
from components.models.loading import load_policy, pick_device, resolve_dtype
from components.records import ModelRef

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Draw(Protocol):
    """Samples responses to every prompt, like `sampler.sample`."""

    def __call__(
        self,
        prompts: Sequence[list[int]],
        *,
        seeds: Sequence[Sequence[int]],
        law: SamplingParams,
        on_batch: Callable[[Sequence[Sampled]], None],
    ) -> list[Sampled]:
        """Return one response per seed, ordered by prompt, then sample."""


class Sampler:
    """A policy that can be sampled from."""

    def __init__(self, draw: Draw, model: "PreTrainedModel | None") -> None:
        self.draw, self.model = draw, model
        """The model is None if another process has loaded it."""

    @property
    def path(self) -> SamplingPath:
        """How responses are sampled, and why."""
        return SamplingPath("vllm", None) if self.model is None else sampling_path(self.model)


@contextlib.contextmanager
def opened(
    policy: ModelRef,
    limits: PolicyConfig,
    *,
    engine: SamplingEngine,
    longest: int,
    pad_id: int,
    batch_size: int,
    reads_text: bool = False,
    tensor_parallel_size: int = 1,
) -> Iterator[Sampler]:
    """Load a policy in an engine, within the block.

    Args:
        policy: A model, or an adapter on one.
        limits: The policy's precision and quantization.
        engine: `transformers` or `vllm`.
        longest: Tokens of the longest prompt and response together.
        pad_id: Token that fills the left of shorter prompts.
        batch_size: Prompts that our own loop decodes together; 0 takes as many as fit.
        reads_text: Whether the engine must be able to end responses at stop strings.
        tensor_parallel_size: GPUs over which vLLM spreads the policy.

    Raises:
        ValueError: The engine is not installed, or does not support the policy's adapter.
        RuntimeError: The engine could not load the policy.
    """
    dtype = resolve_dtype(limits.dtype)
    if engine == "vllm":
        precision = str(dtype).removeprefix("torch.")
        with vllm.loaded(
            policy, dtype=precision, longest=longest, reads_text=reads_text, num_gpus=tensor_parallel_size
        ) as session:
            yield Sampler(session.sample, None)
        return
    model = load_policy(policy, dtype=dtype, device=pick_device(), quantization=limits.quantization)

    draw = partial(sample, model, pad_id=pad_id, batch_size=batch_size)
    yield Sampler(draw, model)
