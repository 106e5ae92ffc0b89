"""The servers that can answer, and the commands that start them: vLLM, or transformers' own. Starts nothing itself."""

import importlib.util
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from components.artifacts import read_json, write_json
from components.models import vllm
from components.models.directory import SNAPSHOT_FILES
from components.records import ModelRef
from components.serving.plan import HOST, Serving

Engine = Literal["vllm", "transformers"]


def pick_engine(name: str) -> Engine:
    """Turns `auto` into vLLM where its command is installed, else into transformers.

    Raises:
        ValueError: The engine is not installed; names the command that installs it.
    """
    if name == "vllm" or (name == "auto" and vllm.executable() is not None):
        if vllm.executable() is None:
            raise ValueError(f"vLLM is not installed: {vllm.INSTALL}")
        return "vllm"
    missing = [package for package in ("openai", "fastapi", "uvicorn") if importlib.util.find_spec(package) is None]
    if missing:
        raise ValueError(
            f"transformers serves only where {', '.join(missing)} is installed: `pip install 'transformers[serving]'`"
        )
    return "transformers"


def engine_for(model: ModelRef) -> Engine:
    """The engine that `auto` means for a model.

    Transformers also where vLLM is installed and does not take the model's adapter.

    Raises:
        ValueError: Neither is installed; names the command that installs it.
    """
    engine = pick_engine("auto")
    if engine == "vllm" and model.adapter is not None and not vllm.takes(vllm.adapter_settings(model.adapter)):
        return pick_engine("transformers")
    return engine


def _transformers_command(serving: Serving) -> tuple[list[str], dict[str, str]]:
    """The command, and its environment.

    transformers' server knows models by hub name or path only. So the model is laid out as the one entry of a hub
    cache: the endpoint then lists and accepts it under its own short name.
    """
    _lay_out(serving)
    options = ["--host", HOST, "--port", str(serving.port), "--dtype", serving.dtype]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", serving.model_id, *options]
    return command, {"HF_HUB_CACHE": str(layout(serving))}


def layout(serving: Serving) -> Path:
    """Where the model is laid out; a folder that holds nothing else."""
    place = serving.directory / ".serving" / f"round-{serving.model.round:03d}"
    place.mkdir(parents=True, exist_ok=True)
    return place


def _lay_out(serving: Serving) -> None:
    """Writes a hub cache of links to the model's files.

    An adapter stands beside its base's configuration and names the base's place.
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
    """The command, and its environment; an adapter takes the campaign's name, and its base that name with `-start`."""
    model, executable = serving.model, str(vllm.executable())
    options = ["--host", HOST, "--port", str(serving.port), "--dtype", serving.dtype]
    if model.adapter is None:
        return [executable, "serve", model.base, "--served-model-name", serving.model_id, *options], {}
    rank = vllm.largest_rank(vllm.adapter_settings(model.adapter), "choose --engine transformers")
    adapter = ["--enable-lora", "--max-lora-rank", str(rank), "--lora-modules", f"{serving.model_id}={model.adapter}"]
    return [executable, "serve", model.base, "--served-model-name", f"{serving.model_id}-start", *adapter, *options], {}


COMMANDS: dict[Engine, Callable[[Serving], tuple[list[str], dict[str, str]]]] = {
    "vllm": _vllm_command,
    "transformers": _transformers_command,
}
