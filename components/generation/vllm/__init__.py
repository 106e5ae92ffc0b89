"""vLLM as the sampler.

In a process and an environment of its own, which give the accelerator's memory back when they end.
"""

from components.generation.vllm.session import loaded

__all__ = ["loaded"]
