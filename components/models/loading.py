"""Load a policy, its tokenizer and its adapter; digest their tensors; refuse what is unsafe or incomplete.

Weights come from safetensors only and no remote code ever runs. Knows no stage.
"""

import gc
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from components.models.adapters import load_adapter
from components.models.cpu.layers import speed_up
from components.models.directory import check_quantization
from components.models.whole import load_whole
from components.records import ModelRef

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

REMEDY = "name the directory of a whole causal language model, saved with save_pretrained()"


def pick_device() -> torch.device:
    """Return the visible accelerator of this rank, else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def resolve_dtype(name: str) -> torch.dtype:
    """Return the torch type of a configured precision.

    `auto` is bfloat16 if the hardware computes in it natively, else float32.
    """
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    capabilities = torch.cpu.get_capabilities()
    return torch.bfloat16 if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else torch.float32


def tensors_digest(files: Sequence[Path]) -> str:
    """Return the sha256 over name, type, shape and bytes of every tensor, in order of name.

    It identifies weights independently of their files and location.
    """
    file_of = {}
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            file_of.update(dict.fromkeys(tensors.keys(), file))
    total = hashlib.sha256()
    for name in sorted(file_of):
        with safe_open(file_of[name], framework="pt") as tensors:
            tensor = tensors.get_tensor(name).contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return total.hexdigest()


def start_ref(path: Path, revision: str) -> ModelRef:
    """Return the reference of the start model in a directory, with the digest of its tensors."""
    own = tensors_digest(sorted(path.glob("*.safetensors")))
    return ModelRef(round=0, base=str(path), revision=revision, base_digest=own, digest=own)


def trained_ref(directory: Path, policy: ModelRef, round: int) -> ModelRef:
    """Return the reference of the model that a round trained from `policy`.

    Its stage directory has either `model/` (all weights) or `adapter/` (on the same base).
    """
    adapter, model = directory / "adapter", directory / "model"
    if adapter.is_dir():
        own = tensors_digest(sorted(adapter.glob("*.safetensors")))
        combined = hashlib.sha256(f"{policy.base_digest}+{own}".encode()).hexdigest()
        return policy.model_copy(update={"round": round, "adapter": adapter, "digest": combined})
    own = tensors_digest(sorted(model.glob("*.safetensors")))
    return ModelRef(round=round, base=str(model), base_round=round, base_digest=own, digest=own)


def load_tokenizer(ref: ModelRef) -> "PreTrainedTokenizerBase":
    """Load the tokenizer of a model.

    Pads with the end-of-sequence token if it has no padding token.
    """
    disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(ref.base, revision=ref.revision, trust_remote_code=False)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_generation_config(ref: ModelRef) -> "GenerationConfig":
    """Return the generation config of a model that is not loaded here: its own, or one derived from its config."""
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(ref.base, revision=ref.revision)
    except OSError:
        return GenerationConfig.from_model_config(
            AutoConfig.from_pretrained(ref.base, revision=ref.revision, trust_remote_code=False)
        )


def _four_bits(dtype: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def load_policy(
    ref: ModelRef,
    *,
    dtype: torch.dtype,
    device: torch.device,
    quantization: Literal["none", "4bit"] = "none",
    trainable_adapter: bool = False,
) -> "PreTrainedModel":
    """Load a policy in evaluation mode, with its adapter if it has one.

    Args:
        ref: Model, and its adapter if it has one.
        dtype: Precision of the weights; with `quantization`, of the computation.
        device: Device of the weights.
        quantization: `4bit` holds the base's linear layers in 4 bits.
        trainable_adapter: Whether the adapter's weights can be trained.

    Raises:
        ValueError: `quantization` is `4bit`, and bitsandbytes is not installed; or the model, or its adapter, is not
            whole.
    """
    options: dict[str, Any] = {"dtype": dtype, "revision": ref.revision}
    check_quantization(quantization)
    if quantization == "4bit":
        options |= {"quantization_config": _four_bits(dtype), "device_map": {"": device}}
    model: Any
    model, _ = load_whole(AutoModelForCausalLM, ref.base, name=f"model {ref.base}", remedy=REMEDY, **options)
    if getattr(model.config, "output_router_logits", False):
        # The router's balance is not trained here, and its loss does not fit rows of which only some logits are read.
        model.config.output_router_logits = False
    for module in model.modules():
        # On some processors bitsandbytes repacks weights at the first forward, and then drops their part of the
        # gradient.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
        # RWKV divides the weights of its seventh layer and of later ones in place when it is first used in evaluation
        # mode. What is trained, digested and saved would then be other weights than those that are loaded. The division
        # only spares float16, which is not used here, an overflow: the model undoes it.
        if hasattr(module, "_rescale_layers"):
            module._rescale_layers = _leave_weights
    if ref.adapter is not None:
        model = load_adapter(model, ref.adapter, trainable=trainable_adapter)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        # In some models this is a module, which is off already.
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0
    speed_up(model)
    return model.to(device).eval()


def _leave_weights() -> None:
    """Stand for RWKV's `_rescale_layers`."""


def give_memory_back() -> None:
    """Free the memory of a deleted model.

    A CPU's memory is free at once, but an accelerator's allocator keeps its blocks, which may not fit the next model.
    """
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()
