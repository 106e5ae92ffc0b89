"""Find a model's directory and refuse what is unsafe or incomplete, without loading it. Loads no torch.

Weights must be safetensors, since pickled ones can run code when they load.
"""

import importlib.util
import json
from pathlib import Path

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
        raise ValueError(f"model directory {model} does not exist: name a local directory or a hub model")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=SNAPSHOT_FILES))
    except Exception as error:
        cause = " ".join(str(error).split())[:200]
        raise ValueError(f"model {model} is neither a local directory nor available on the hub: {cause}") from None


def check_model_directory(path: Path, *, needs_chat_template: bool = True) -> None:
    """Check, without loading weights, that a directory holds a model that this project can use.

    Raises:
        ValueError: Config, safetensors weights, tokenizer or chat template are missing; one line with the remedy.
    """
    if not (path / "config.json").is_file():
        raise ValueError(f"model {path} has no config.json: name a transformers model directory")
    if not any(path.glob("*.safetensors")):
        pickled = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for file in path.glob(pattern))
        weights = f"only pickled weights ({pickled[0]}), which can run code when they load" if pickled else "no weights"
        raise ValueError(f"model {path} has {weights}: save it with save_pretrained(), which writes model.safetensors")
    if not any((path / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise ValueError(f"model {path} has no tokenizer: save one there with tokenizer.save_pretrained()")
    if needs_chat_template and not _has_chat_template(path):
        raise ValueError(
            f"model {path} has no chat template: "
            "name an instruct model, or set tokenizer.chat_template and save the tokenizer there"
        )


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
