"""A stand-in for vLLM, which is too large to install for a test.

Its names and arguments as vLLM has them, over transformers' models.

`make bench` runs the real one. A model whose directory holds `broken` does not load.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


@dataclass
class SamplingParams:
    temperature: float
    top_p: float
    top_k: int
    max_tokens: int
    stop_token_ids: list[int]
    ignore_eos: bool
    detokenize: bool
    seed: int
    stop: list[str] = field(default_factory=list)
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True


@dataclass
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str


class LLM:
    def __init__(
        self,
        model: str,
        *,
        dtype: str,
        max_model_len: int,
        skip_tokenizer_init: bool,
        generation_config: str,
        enable_prefix_caching: bool,
        enable_chunked_prefill: bool,
        enable_lora: bool = False,
        max_lora_rank: int = 16,
        tensor_parallel_size: int = 1,
    ) -> None:
        print("vLLM prints much")
        if (Path(model) / "broken").exists():
            raise ValueError("no memory for the key-value cache")
        assert generation_config == "vllm"
        self.tokenizer: Any = None if skip_tokenizer_init else AutoTokenizer.from_pretrained(model)
        self.model: Any = AutoModelForCausalLM.from_pretrained(model, dtype=dtype).eval()
        self.longest, self.adapted = max_model_len, False
        self.enable_lora = enable_lora

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[dict[str, list[int]]],
        laws: Sequence[SamplingParams],
        *,
        use_tqdm: bool,
        lora_request: LoRARequest | None,
    ) -> list[Any]:
        if lora_request is not None and not self.adapted:
            from peft import PeftModel

            assert self.enable_lora
            self.model, self.adapted = PeftModel.from_pretrained(self.model, lora_request.lora_path), True
        return [self._one(prompt["prompt_token_ids"], law) for prompt, law in zip(prompts, laws, strict=True)]

    def _one(self, prompt: list[int], law: SamplingParams) -> Any:
        assert len(prompt) + law.max_tokens <= self.longest
        assert law.detokenize == (self.tokenizer is not None) == bool(law.stop), "stop strings need a tokenizer"
        chance, said = torch.Generator().manual_seed(law.seed), []
        reason = "length"
        while len(said) < law.max_tokens and reason == "length":
            logits = self.model(input_ids=torch.tensor([prompt + said])).logits[0, -1] / law.temperature
            said.append(int(torch.multinomial(logits.softmax(dim=0), 1, generator=chance)))
            text = self.tokenizer.decode(said, skip_special_tokens=law.skip_special_tokens) if law.stop else ""
            by_text = any(each in text for each in law.stop)
            reason = "stop" if by_text or said[-1] in law.stop_token_ids else "length"
        return SimpleNamespace(outputs=[SimpleNamespace(token_ids=tuple(said), finish_reason=reason)])


def install() -> None:
    """Make this the package that `import vllm` finds."""
    here = sys.modules[__name__]
    for name in ("vllm", "vllm.lora", "vllm.lora.request"):
        sys.modules[name] = here
