"""Adapters on a policy whose own weights stay as they are: make a fresh one, say what one is, save it.

Knows peft, and no stage.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from components.artifacts import read_json
from components.config import LoraConfig, SoftPromptConfig

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel

KINDS = {"LORA": "lora", "PROMPT_TUNING": "prompt", "PREFIX_TUNING": "prefix"}
"""peft's names of the adapters that can be trained here, and the configuration's."""


def is_wanted(lora: LoraConfig, soft_prompt: SoftPromptConfig) -> bool:
    """Whether the configuration trains an adapter, and not all weights."""
    return lora.rank > 0 or soft_prompt.kind != "none"


def describe_wanted(lora: LoraConfig, soft_prompt: SoftPromptConfig) -> str:
    """Kind and shape of the adapter that a configuration asks for, in the words of `describe_saved`."""
    if soft_prompt.kind != "none":
        return f"{soft_prompt.kind} of {soft_prompt.num_tokens} tokens"
    return f"{lora.kind} of rank {lora.rank}, alpha {lora.alpha}" if lora.rank else "none"


def describe_saved(adapter: Path) -> str:
    """Kind and shape of a saved adapter."""
    saved = read_json(adapter / "adapter_config.json")
    kind = KINDS.get(saved["peft_type"], saved["peft_type"])
    if kind != "lora":
        return f"{kind} of {saved['num_virtual_tokens']} tokens"
    return f"{'dora' if saved['use_dora'] else kind} of rank {saved['r']}, alpha {saved['lora_alpha']}"


def num_virtual_tokens(model: Any) -> int:
    """Virtual tokens that a model, or what an engine wraps, has before its prompts."""
    configs = getattr(getattr(model, "module", model), "peft_config", None)
    return configs["default"].num_virtual_tokens if configs and configs["default"].is_prompt_learning else 0


def with_fresh_adapter(model: "PreTrainedModel", lora: LoraConfig, soft_prompt: SoftPromptConfig) -> Any:
    """Puts an untrained adapter on a model, which it freezes.

    A fresh LoRA or DoRA changes nothing that the model says. Virtual tokens do whatever they hold; they begin as tokens
    drawn from the vocabulary (`prefix`: as the keys and values that these have in the model), which it knows how to
    read, unlike Gaussian noise.
    """
    from peft import get_peft_model

    adapted = get_peft_model(model, _settings(lora, soft_prompt), autocast_adapter_dtype=False)
    if soft_prompt.kind == "prefix":
        _begin_as_real_tokens(adapted, soft_prompt.num_tokens)
    return adapted.to(model.device)


def _settings(lora: LoraConfig, soft_prompt: SoftPromptConfig) -> "PeftConfig":
    from peft import LoraConfig as PeftLoraConfig
    from peft import PrefixTuningConfig, PromptTuningConfig

    if soft_prompt.kind == "prefix":
        return PrefixTuningConfig(num_virtual_tokens=soft_prompt.num_tokens, task_type="CAUSAL_LM")
    if soft_prompt.kind == "prompt":
        return PromptTuningConfig(
            num_virtual_tokens=soft_prompt.num_tokens, prompt_tuning_init="SAMPLE_VOCAB", task_type="CAUSAL_LM"
        )
    names = lora.target_modules
    return PeftLoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=0.0,
        use_dora=lora.kind == "dora",
        target_modules=names if names == "all-linear" else [name.strip() for name in names.split(",")],
        task_type="CAUSAL_LM",
    )


@torch.no_grad()
def _begin_as_real_tokens(adapted: Any, num_tokens: int) -> None:
    from transformers import DynamicCache

    base = adapted.get_base_model()
    tokens = torch.randint(base.get_input_embeddings().num_embeddings, (1, num_tokens)).to(base.device)
    cache = (
        DynamicCache()
    )  # without the model's configuration it forgets nothing, also where a layer's window is shorter
    base(input_ids=tokens, past_key_values=cache, use_cache=True)
    weight = adapted.prompt_encoder["default"].embedding.weight
    states = [
        part.squeeze(0).transpose(0, 1).flatten(1) for layer in cache.layers for part in (layer.keys, layer.values)
    ]
    begun = torch.cat(states, dim=1)
    # Layers of different shapes, or without keys of their own, have no common place in peft's table: it stays random
    # there.
    if begun.shape == weight.shape:
        weight.copy_(begun)


def load_adapter(model: "PreTrainedModel", adapter: Path, *, trainable: bool) -> Any:
    """Puts a saved adapter on its base, open to training or not."""
    from peft import PeftModel

    soft_prompt = "num_virtual_tokens" in read_json(adapter / "adapter_config.json")
    # peft opens no saved virtual tokens to training, so they are opened here.
    adapted = PeftModel.from_pretrained(
        model, str(adapter), is_trainable=trainable and not soft_prompt, autocast_adapter_dtype=False
    )
    if soft_prompt and trainable:
        adapted.peft_config["default"].inference_mode = False
        adapted.prompt_encoder.requires_grad_(True)
    return adapted


@contextmanager
def without_adapter(model: Any) -> Iterator[Any]:
    """Gives the model under a fresh adapter as it is without it."""
    with model.disable_adapter():
        yield model.get_base_model()


def save_adapter(model: Any, state: dict[str, torch.Tensor], directory: Path) -> None:
    """Writes an adapter as peft reads it, from weights that were gathered from all ranks."""
    settings = model.peft_config["default"]
    if not settings.is_prompt_learning:
        model.save_pretrained(directory, state_dict=state, safe_serialization=True)
        return
    # peft would ask the model for the virtual tokens, and under ZeRO-3 this rank's model holds only its share of them.
    directory.mkdir(parents=True)
    (weight,) = (tensor for name, tensor in state.items() if name.endswith("prompt_encoder.default.embedding.weight"))
    save_file(
        {"prompt_embeddings": weight.contiguous()}, directory / "adapter_model.safetensors", metadata={"format": "pt"}
    )
    for_reading = copy.copy(settings)
    for_reading.inference_mode = True
    for_reading.save_pretrained(str(directory))
