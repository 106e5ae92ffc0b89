"""Choose a server, vLLM or transformers' own, and build the command that starts it. Starts nothing itself."""

import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from components.artifacts import read_json, write_json
from components.models import vllm
from components.models.directory import SNAPSHOT_FILES
from components.records import ModelRef
from components.serving.plan import Serving

Engine = Literal["vllm", "transformers"]
DOOR = Path(__file__).parent / "door"
"""Directory of the one module that the servers import from us."""


def pick_engine(name: str) -> Engine:
    """Return the engine of a name; `auto` is vLLM if its command is installed, else transformers.

    Raises:
        ValueError: The engine is not installed; the message names the command that installs it.
    """
    if name == "vllm" or (name == "auto" and vllm.executable() is not None):
        if vllm.executable() is None:
            raise ValueError(f"vLLM is not installed: {vllm.INSTALL}")
        return "vllm"
    missing = [package for package in ("openai", "fastapi", "uvicorn") if importlib.util.find_spec(package) is None]
    if missing:
        raise ValueError(
            f"the transformers server needs {', '.join(missing)}: install with `pip install 'transformers[serving]'`"
        )
    return "transformers"


def engine_for(model: ModelRef) -> Engine:
    """Return the engine that `auto` means for a model.

    It is transformers even if vLLM is installed but does not support the model's adapter.

    Raises:
        ValueError: Neither engine is installed; the message names the command that installs it.
    """
    engine = pick_engine("auto")
    if engine == "vllm" and model.adapter is not None and not vllm.takes(vllm.adapter_settings(model.adapter)):
        return pick_engine("transformers")
    return engine


def _transformers_command(serving: Serving) -> tuple[list[str], dict[str, str]]:
    """Return the command and its environment.

    transformers' server knows models only by hub name or path. So the model becomes the only entry of a hub cache, and
    the endpoint lists and accepts it under its short name.
    """
    _lay_out(serving)
    options = [*_address(serving), "--dtype", serving.dtype]
    options += _arguments(serving, "--chat-template-kwargs")
    command = [sys.executable, str(DOOR / "ratchet_door.py"), "serve", serving.model_id, *options]
    return command, {"HF_HUB_CACHE": str(layout(serving))}


def layout(serving: Serving) -> Path:
    """Return the directory of the model's hub cache, which holds nothing else; create it if it is missing."""
    cache = serving.directory / ".serving" / f"round-{serving.model.round:03d}"
    cache.mkdir(parents=True, exist_ok=True)
    return cache


def _lay_out(serving: Serving) -> None:
    """Write a hub cache of links to the model's files.

    An adapter is placed beside its base's configuration and names the base's path.
    """
    model, cache = serving.model, layout(serving)
    entry, revision = cache / f"models--{serving.model_id}", model.digest[:40]
    shutil.rmtree(entry, ignore_errors=True)
    snapshot = entry / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (entry / "refs").mkdir()
    (entry / "refs" / "main").write_text(revision)
    for file in _files(Path(model.base)):
        if model.adapter is None or file.suffix != ".safetensors":
            (snapshot / file.name).symlink_to(file)
    if model.adapter is not None:
        for file in _files(model.adapter):
            (snapshot / file.name).unlink(missing_ok=True)
            (snapshot / file.name).symlink_to(file)
        (snapshot / "adapter_config.json").unlink()
        write_json(
            snapshot / "adapter_config.json",
            read_json(model.adapter / "adapter_config.json") | {"base_model_name_or_path": model.base},
        )


def _files(directory: Path) -> list[Path]:
    return sorted(file.absolute() for pattern in SNAPSHOT_FILES for file in directory.glob(pattern))


def _vllm_command(serving: Serving) -> tuple[list[str], dict[str, str]]:
    """Return the command and its environment; an adapter has the campaign's name, its base that name with `-start`."""
    model, executable = serving.model, str(vllm.executable())
    options = [*_address(serving), "--dtype", serving.dtype, "--middleware", "ratchet_door.KeyRequired"]
    options += _arguments(serving, "--default-chat-template-kwargs")
    paths = os.pathsep.join(filter(None, [str(DOOR), os.environ.get("PYTHONPATH")]))
    environment = {"PYTHONPATH": paths, "VLLM_API_KEY": serving.key}
    if model.adapter is None:
        return [executable, "serve", model.base, "--served-model-name", serving.model_id, *options], environment
    rank = vllm.largest_rank(vllm.adapter_settings(model.adapter), "choose --engine transformers")
    adapter = ["--enable-lora", "--max-lora-rank", str(rank), "--lora-modules", f"{serving.model_id}={model.adapter}"]
    names = ["--served-model-name", f"{serving.model_id}-start"]
    return [executable, "serve", model.base, *names, *adapter, *options], environment


def _address(serving: Serving) -> list[str]:
    return ["--host", serving.host, "--port", str(serving.port)]


def _arguments(serving: Serving, option: str) -> list[str]:
    """Return the option by which a server takes arguments of the chat template, if there are any."""
    return [option, json.dumps(serving.template_arguments)] if serving.template_arguments else []


COMMANDS: dict[Engine, Callable[[Serving], tuple[list[str], dict[str, str]]]] = {
    "vllm": _vllm_command,
    "transformers": _transformers_command,
}
