"""Find a model's directory and refuse what is unsafe or incomplete, without loading it. Loads no torch.

Weights must be safetensors, since pickled ones can run code when they load.
"""

import importlib.util
import json
from pathlib import Path
from typing import Any

LFS_POINTER = b"version https://git-lfs"
"""The beginning of the file that stands for a large file in a Git repository that was cloned without Git LFS."""
TEXT_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "chat_template*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",
)
"""Files beside the weights that decide what a model reads and how it samples."""
SNAPSHOT_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]


def locate_model(model: str, revision: str) -> Path:
    """Return the directory of a local model, or download a hub model's safetensors and tokenizer once.

    Raises:
        ValueError: The directory does not exist, and the hub does not have the model or cannot be reached.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return path.resolve()
    if model.startswith((".", "/", "~")):
        raise ValueError(f"model directory {path.absolute()} does not exist: name a local directory or a hub model")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=SNAPSHOT_FILES))
    except Exception as error:
        cause = " ".join(str(error).split())[:200]
        raise ValueError(
            f"model {model} is neither a local directory nor available on the hub: {path.absolute()} does not exist, "
            f"and {cause}"
        ) from None


def text_files(path: Path) -> list[Path]:
    """Return the files of a model's directory that decide what it reads and how it samples, in order of name."""
    return sorted({file for pattern in TEXT_FILES for file in path.glob(pattern) if file.is_file()})


def check_model_directory(path: Path, *, needs_chat_template: bool = True) -> None:
    """Check, without loading weights, that a directory holds a model that this project can use.

    Raises:
        ValueError: Config, safetensors weights, tokenizer or chat template are missing; one line with the remedy.
    """
    if (path / "adapter_config.json").is_file():
        base = _json(path / "adapter_config.json").get("base_model_name_or_path")
        raise ValueError(f"model {path} is an adapter on {base}: name the model that it was merged into, or its base")
    if not (path / "config.json").is_file():
        raise ValueError(f"model {path} has no config.json: name a transformers model directory")
    if not any(path.glob("*.safetensors")):
        pickled = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for file in path.glob(pattern))
        weights = f"only pickled weights ({pickled[0]}), which can run code when they load" if pickled else "no weights"
        raise ValueError(f"model {path} has {weights}: save it with save_pretrained(), which writes model.safetensors")
    for file in sorted(path.glob("*.safetensors")):
        _check_weights_file(file)
    _check_own_quantization(path)
    if not any((path / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise ValueError(f"model {path} has no tokenizer: save one there with tokenizer.save_pretrained()")
    if needs_chat_template and not _has_chat_template(path):
        raise ValueError(
            f"model {path} has no chat template: "
            "name an instruct model, or set tokenizer.chat_template and save the tokenizer there"
        )


def check_policy_directory(path: Path, *, trains_adapter: bool) -> None:
    """Check, without loading weights, that the model in a directory can be a policy.

    Args:
        path: A directory that `check_model_directory` accepts.
        trains_adapter: Whether an adapter is trained, and not the model's own weights.

    Raises:
        ValueError: It is an encoder-decoder or a classifier, or its weights are quantized and would be trained.
    """
    settings = _json(path / "config.json")
    architecture = next(iter(settings.get("architectures") or [""]))
    remedy = "name a causal language model"
    if settings.get("is_encoder_decoder"):
        raise ValueError(f"model {path} is an encoder-decoder ({architecture or settings.get('model_type')}): {remedy}")
    if "Classification" in architecture or architecture.endswith(("RewardModel", "QuestionAnswering")):
        raise ValueError(f"model {path} is not a language model ({architecture}), as a reward model is not: {remedy}")
    if settings.get("quantization_config") and not trains_adapter:
        raise ValueError(
            f"model {path} has quantized weights, which cannot be trained: set `lora: {{rank: 16}}`, "
            "or name the model that was not quantized"
        )


def _check_own_quantization(path: Path) -> None:
    settings = _json(path / "config.json").get("quantization_config") or {}
    is_bitsandbytes = settings.get("quant_method") == "bitsandbytes" or settings.get("load_in_4bit")
    if is_bitsandbytes and importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError(
            f"model {path} was saved in the format of bitsandbytes, which is not installed: pip install bitsandbytes"
        )


def _check_weights_file(file: Path) -> None:
    """Refuse a file that is not safetensors, or not all of it; its header says how long it is."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        start = opened.read(len(LFS_POINTER))
        if start == LFS_POINTER:
            raise ValueError(f"{file} is a Git LFS pointer and not the weights: run `git lfs pull` in {file.parent}")
        length = int.from_bytes(start[:8], "little")
        opened.seek(8)
        header = opened.read(length) if length < size else b""
    try:
        tensors = json.loads(header)
        end = max((tensor["data_offsets"][1] for name, tensor in tensors.items() if name != "__metadata__"), default=0)
    except (ValueError, AttributeError, KeyError, TypeError):
        raise ValueError(f"{file} is not a safetensors file: download it again") from None
    if size < 8 + length + end:
        raise ValueError(f"{file} is cut off ({size} of {8 + length + end} bytes): download it again")


def _json(file: Path) -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        ValueError: The file is not a JSON object.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"{file} is not a JSON object: save the model again with save_pretrained()")
    return content


def check_quantization(quantization: str) -> None:
    """Check that weights can be held in 4 bits, if `quantization` is `4bit`.

    Raises:
        ValueError: bitsandbytes is not installed.
    """
    if quantization == "4bit" and importlib.util.find_spec("bitsandbytes") is None:
        raise ValueError(
            "policy.quantization = 4bit needs bitsandbytes: "
            "pip install bitsandbytes, or set `policy: {quantization: none}`"
        )


def _has_chat_template(path: Path) -> bool:
    if (path / "chat_template.jinja").is_file() or (path / "chat_template.json").is_file():
        return True
    settings = path / "tokenizer_config.json"
    return settings.is_file() and bool(json.loads(settings.read_text(encoding="utf-8")).get("chat_template"))
