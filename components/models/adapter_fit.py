"""Whether the adapter that a configuration asks for fits a model, found out without its weights.

Otherwise the first round would fail only when it begins to train, after everything was sampled and judged.
"""

import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from components.config import LoraConfig, SoftPromptConfig
from components.models.adapters import with_fresh_adapter


def check_adapter_fits(model: Path, lora: LoraConfig, soft_prompt: SoftPromptConfig) -> None:
    """Put the adapter on an empty model of the directory's configuration.

    Raises:
        ValueError: peft cannot put it there, or a name in `lora.target_modules` or `modules_to_save` fits no module
            or does not go together with the others.
    """
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model, trust_remote_code=False))
    linear = sorted({name.rsplit(".", 1)[-1] for name, module in base.named_modules() if _is_linear(module)})
    kinds = sorted({name.rsplit(".", 1)[-1] for name, module in base.named_modules() if module._parameters})
    field = f"soft_prompt.kind = {soft_prompt.kind}" if soft_prompt.kind != "none" else _field(lora)
    remedy = f"its linear layers are {', '.join(linear)}; set `lora: {{target_modules: ...}}` to some of them"
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            adapted = with_fresh_adapter(base, lora, soft_prompt)
    except Exception as error:
        cause = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ValueError(f"{field} does not fit model {model} ({type(base).__name__}): {cause}; {remedy}") from None
    for name in _without_a_module(adapted, lora) if soft_prompt.kind == "none" else ():
        raise ValueError(f"{field} does not fit model {model}: no module is named {name}; {remedy}")
    _check_saved_modules(model, adapted, lora, kinds)


def _check_saved_modules(model: Path, adapted: Any, lora: LoraConfig, kinds: list[str]) -> None:
    """Check the modules that are trained beside the adapter."""
    from peft.utils.other import ModulesToSaveWrapper

    base, fault = adapted.get_base_model(), f"lora.modules_to_save = {lora.modules_to_save} does not fit model {model}"
    wrapped = {name: module for name, module in base.named_modules() if isinstance(module, ModulesToSaveWrapper)}
    for name in lora.saved_modules:
        # peft names the embedding where the head was asked for and both are one tensor.
        if not any(f".{module}".endswith(f".{name}") for module in wrapped):
            raise ValueError(f"{fault}: no module is named {name}; it has {', '.join(kinds)}")
    ends = [base.get_input_embeddings(), base.get_output_embeddings()]
    is_tied = getattr(base.config.get_text_config(), "tie_word_embeddings", False)
    if is_tied and any(end in wrapped.values() for end in ends) and ends[0].weight is not ends[1].weight:
        raise ValueError(f"{fault}: its head and its embedding are one tensor, and would come apart; leave them out")


def _field(lora: LoraConfig) -> str:
    return f"lora.target_modules = {lora.target_modules}"


def _is_linear(module: torch.nn.Module) -> bool:
    return isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"


def _without_a_module(adapted: Any, lora: LoraConfig) -> list[str]:
    """Return the names that no adapted module has; peft is content if one of several has."""
    adapted_names = [name.split(".lora_")[0] for name, _ in adapted.named_parameters() if ".lora_" in name]
    names = [] if lora.target_modules == "all-linear" else [name.strip() for name in lora.target_modules.split(",")]
    return [name for name in names if not any(f".{module}".endswith(f".{name}") for module in adapted_names)]
