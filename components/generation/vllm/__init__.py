"""vLLM as the sampler, in a process and an environment of its own; its end frees the accelerator's memory."""

from components.generation.vllm.session import loaded

__all__ = ["loaded"]
