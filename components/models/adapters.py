"""Adapters on a policy whose own weights stay unchanged: create, describe, load and save them.

Knows peft, and no stage.
"""

import copy
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from components.artifacts import read_json
from components.config import LoraConfig, SoftPromptConfig
from components.models.whole import name_some

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel

KINDS = {"LORA": "lora", "PROMPT_TUNING": "prompt", "PREFIX_TUNING": "prefix"}
"""By peft's name of an adapter that can be trained here, the configuration's name."""


def is_wanted(lora: LoraConfig, soft_prompt: SoftPromptConfig) -> bool:
    """Return whether the configuration trains an adapter instead of all weights."""
    return lora.rank > 0 or soft_prompt.kind != "none"


def describe_wanted(lora: LoraConfig, soft_prompt: SoftPromptConfig) -> str:
    """Return kind and shape of the adapter that a configuration asks for, in the format of `describe_saved`."""
    if soft_prompt.kind != "none":
        return f"{soft_prompt.kind} of {soft_prompt.num_tokens} tokens"
    return _described(lora.kind, lora.rank, lora.alpha, lora.rank_stabilized) if lora.rank else "none"


def describe_trained(lora: LoraConfig, soft_prompt: SoftPromptConfig) -> str:
    """Return the same with the modules that are trained beside the adapter."""
    names = lora.saved_modules
    return describe_wanted(lora, soft_prompt) + (f", with {', '.join(names)} in full" if names else "")


def describe_saved(adapter: Path) -> str:
    """Return kind and shape of a saved adapter."""
    saved = read_json(adapter / "adapter_config.json")
    kind = KINDS.get(saved["peft_type"], saved["peft_type"])
    if kind != "lora":
        return f"{kind} of {saved['num_virtual_tokens']} tokens"
    kind = "dora" if saved["use_dora"] else kind
    return _described(kind, saved["r"], saved["lora_alpha"], saved.get("use_rslora", False))


def _described(kind: str, rank: int, alpha: int, rank_stabilized: bool) -> str:
    return f"{kind} of rank {rank}, alpha {alpha}" + (", rank-stabilized" if rank_stabilized else "")


class Modules(NamedTuple):
    """The modules of a model that a LoRA or DoRA trains."""

    adapted: set[str]
    whole: set[str]
    """Those whose own weights are trained and saved beside the adapter."""


def saved_modules(adapter: Path) -> Modules:
    """Return the modules of a model that a saved LoRA or DoRA trains."""
    with safe_open(adapter / "adapter_model.safetensors", framework="pt") as tensors:
        return _modules(tensors.keys())


def wanted_modules(base: str, revision: str, lora: LoraConfig) -> Modules:
    """Return the modules of a model that a fresh adapter would train.

    The model is built without weights: names such as `all-linear` say nothing without one.
    """
    from peft import get_peft_model, get_peft_model_state_dict
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(base, revision=revision, trust_remote_code=False)
    with torch.device("meta"), warnings.catch_warnings(action="ignore"):
        model = AutoModelForCausalLM.from_config(config)
        adapted = get_peft_model(model, _settings(model, lora, SoftPromptConfig()), autocast_adapter_dtype=False)
        return _modules(get_peft_model_state_dict(adapted, save_embedding_layers=False))


def _modules(tensors: Iterable[str]) -> Modules:
    names = [name.removeprefix("base_model.model.") for name in tensors]
    return Modules(
        {name.partition(".lora_")[0] for name in names if ".lora_" in name},
        {name.rpartition(".")[0] for name in names if ".lora_" not in name},
    )


def num_virtual_tokens(model: Any) -> int:
    """Return the number of virtual tokens before the prompts of a model, or of a model in an engine."""
    configs = getattr(getattr(model, "module", model), "peft_config", None)
    return configs["default"].num_virtual_tokens if configs and configs["default"].is_prompt_learning else 0


def with_fresh_adapter(model: "PreTrainedModel", lora: LoraConfig, soft_prompt: SoftPromptConfig) -> Any:
    """Put an untrained adapter on a model, and freeze the model.

    A fresh LoRA or DoRA does not change the model's outputs. Virtual tokens change them in any case; they begin as
    tokens drawn from the vocabulary (`prefix`: as their keys and values in the model), which the model can read, unlike
    Gaussian noise.
    """
    from peft import get_peft_model

    with _without_advice_on_tied_weights():
        adapted = get_peft_model(model, _settings(model, lora, soft_prompt), autocast_adapter_dtype=False)
    if soft_prompt.kind == "prefix":
        _begin_as_real_tokens(adapted, soft_prompt.num_tokens)
    _speed_up(adapted)
    return adapted.to(model.device)


def _speed_up(adapted: torch.nn.Module) -> None:
    """Replace the low-rank layers of an adapter by faster ones for a CPU."""
    from components.models.cpu.lora import adopt

    for module in adapted.modules():
        adopt(module)


def _settings(model: "PreTrainedModel", lora: LoraConfig, soft_prompt: SoftPromptConfig) -> "PeftConfig":
    from peft import LoraConfig as PeftLoraConfig
    from peft import PrefixTuningConfig, PromptTuningConfig
    from peft.utils.other import EMBEDDING_LAYER_NAMES

    if soft_prompt.kind == "prefix":
        return PrefixTuningConfig(num_virtual_tokens=soft_prompt.num_tokens, task_type="CAUSAL_LM")
    if soft_prompt.kind == "prompt":
        return PromptTuningConfig(
            num_virtual_tokens=soft_prompt.num_tokens, prompt_tuning_init="SAMPLE_VOCAB", task_type="CAUSAL_LM"
        )
    names, is_tied = lora.target_modules, getattr(model.config.get_text_config(), "tie_word_embeddings", False)
    return PeftLoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=0.0,
        use_dora=lora.kind == "dora",
        use_rslora=lora.rank_stabilized,
        target_modules=names if names == "all-linear" else [name.strip() for name in names.split(",")],
        modules_to_save=lora.saved_modules or None,
        # A head and an embedding that are one tensor stay one.
        ensure_weight_tying=is_tied
        and any(name.rpartition(".")[2] in EMBEDDING_LAYER_NAMES for name in lora.saved_modules),
        task_type="CAUSAL_LM",
    )


@torch.no_grad()
def _begin_as_real_tokens(adapted: Any, num_tokens: int) -> None:
    from transformers import DynamicCache

    base = adapted.get_base_model()
    tokens = torch.randint(base.get_input_embeddings().num_embeddings, (1, num_tokens)).to(base.device)
    # Without the model's configuration the cache keeps all positions, even if a layer's window is shorter.
    cache = DynamicCache()
    base(input_ids=tokens, past_key_values=cache, use_cache=True)
    weight = adapted.prompt_encoder["default"].embedding.weight
    states = [
        part.squeeze(0).transpose(0, 1).flatten(1) for layer in cache.layers for part in (layer.keys, layer.values)
    ]
    prefix = torch.cat(states, dim=1)
    # Layers of different shapes, or without keys of their own, do not fit peft's table, which then stays random.
    if prefix.shape == weight.shape:
        weight.copy_(prefix)


def load_adapter(model: "PreTrainedModel", adapter: Path, *, trainable: bool) -> Any:
    """Put a saved adapter on its base, trainable or frozen.

    Raises:
        ValueError: The adapter's file lacks weights, or holds some that fit nothing in the model.
    """
    from peft import PeftModel

    soft_prompt = "num_virtual_tokens" in read_json(adapter / "adapter_config.json")
    # peft does not make saved virtual tokens trainable, so this is done here.
    with _without_advice_on_tied_weights():
        adapted = PeftModel.from_pretrained(
            model, str(adapter), is_trainable=trainable and not soft_prompt, autocast_adapter_dtype=False
        )
    if soft_prompt and trainable:
        adapted.peft_config["default"].inference_mode = False
        adapted.prompt_encoder.requires_grad_(True)
    _refuse_partial(adapted, adapter)
    _speed_up(adapted)
    return adapted


def _refuse_partial(adapted: Any, adapter: Path) -> None:
    """Refuse an adapter whose file and model differ in names: peft leaves what is missing as it was before training."""
    from peft import get_peft_model_state_dict

    with safe_open(adapter / "adapter_model.safetensors", framework="pt") as tensors:
        saved = set(tensors.keys())
    expected = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    for names, fault in ((expected - saved, "lacks weights"), (saved - expected, "holds weights without a place")):
        if names:
            raise ValueError(
                f"adapter {adapter} {fault} ({name_some(names)}): it belongs to another model, or is cut off"
            )


@contextmanager
def _without_advice_on_tied_weights() -> Iterator[None]:
    """Silence peft's advice about tied weights; `merging` and `_settings` do what it asks for."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Model (has|with) `tie_word_embeddings=True`")
        yield


@contextmanager
def without_adapter(model: Any) -> Iterator[Any]:
    """Yield the model under a fresh adapter, with the adapter disabled."""
    with model.disable_adapter():
        yield model.get_base_model()


def save_adapter(model: Any, state: dict[str, torch.Tensor], directory: Path) -> None:
    """Write an adapter in peft's format, from weights that were gathered from all ranks."""
    settings = model.peft_config["default"]
    if not settings.is_prompt_learning:
        state = _with_tied_names(model, state)
        model.save_pretrained(directory, state_dict=state, safe_serialization=True, save_embedding_layers=False)
        return
    # peft would read the virtual tokens from the model, but under ZeRO-3 this rank's model holds only a share of them.
    directory.mkdir(parents=True)
    (weight,) = (tensor for name, tensor in state.items() if name.endswith("prompt_encoder.default.embedding.weight"))
    save_file(
        {"prompt_embeddings": weight.contiguous()}, directory / "adapter_model.safetensors", metadata={"format": "pt"}
    )
    for_reading = copy.copy(settings)
    for_reading.inference_mode = True
    for_reading.save_pretrained(str(directory))


def _with_tied_names(model: Any, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights with those that are tied under each of their names, as peft looks them up."""
    names: dict[int, list[str]] = {}
    for name, weight in model.state_dict(keep_vars=True).items():
        names.setdefault(id(weight), []).append(name)
    return {other: state[same[0]] for same in names.values() if same[0] in state for other in same}


def output_head(model: Any) -> Any:
    """Return the head of a model, or of a model in an engine; if it is trained beside an adapter, the copy in use."""
    head = unwrapped(model).get_output_embeddings()
    copies = getattr(head, "modules_to_save", None)
    if copies is None:
        return head
    return head.original_module if head.disable_adapters else copies["default"]


def unwrapped(model: Any) -> Any:
    """Return the transformers model inside an engine or a peft wrapper."""
    model = getattr(model, "module", model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model
