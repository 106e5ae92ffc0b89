"""The servers that can answer, and the commands that start them: vLLM, or transformers' own. Starts nothing itself."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from components.artifacts import read_json, write_json
from components.model_directory import SNAPSHOT_FILES
from components.records import ModelRef
from components.serving.plan import HOST, Serving

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM takes for --max-lora-rank; an adapter fits under the next larger one."""
Engine = Literal["vllm", "transformers"]


def pick_engine(name: str) -> Engine:
    """Turns `auto` into vLLM where its command is installed, else into transformers.

    Raises:
        ValueError: The engine is not installed; names the command that installs it.
    """
    if name == "vllm" or (name == "auto" and _vllm() is not None):
        if _vllm() is None:
            raise ValueError("vLLM is not installed: `pip install vllm`, best in an environment of its own that is on the PATH")
        return "vllm"
    missing = [package for package in ("openai", "fastapi", "uvicorn") if importlib.util.find_spec(package) is None]
    if missing:
        raise ValueError(f"transformers serves only where {', '.join(missing)} is installed: `pip install 'transformers[serving]'`")
    return "transformers"


def engine_for(model: ModelRef) -> Engine:
    """The engine that `auto` means for a model: transformers also where vLLM is installed and does not take the model's adapter.

    Raises:
        ValueError: Neither is installed; names the command that installs it.
    """
    engine = pick_engine("auto")
    if engine == "vllm" and model.adapter is not None:
        settings = _adapter_config(model.adapter)
        if settings.get("use_dora") or _lora_rank(settings) > VLLM_RANKS[-1]:
            return pick_engine("transformers")
    return engine


def _vllm() -> str | None:
    beside_python = str(Path(sys.executable).parent)
    return shutil.which("vllm", path=os.pathsep.join([beside_python, os.environ.get("PATH", "")]))


def _transformers_command(serving: Serving) -> tuple[list[str], dict[str, str]]:
    """The command, and its environment.

    transformers' server knows models by hub name or path only. So the model is laid out as the one entry of a hub cache: the endpoint
    then lists and accepts it under its own short name.
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
    """Writes a hub cache of links to the model's files. An adapter stands beside its base's configuration and names the base's place."""
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
        write_json(snapshot / "adapter_config.json", _adapter_config(model.adapter) | {"base_model_name_or_path": model.base})


def _files(directory: Path) -> list[Path]:
    return sorted(file.absolute() for pattern in SNAPSHOT_FILES for file in directory.glob(pattern))


def _adapter_config(adapter: Path) -> dict[str, object]:
    return read_json(adapter / "adapter_config.json")


def _lora_rank(settings: Mapping[str, object]) -> int:
    rank = settings["r"]
    assert isinstance(rank, int), rank
    return rank


def _vllm_command(serving: Serving) -> tuple[list[str], dict[str, str]]:
    """The command, and its environment; an adapter takes the campaign's name, and its base that name with `-start`."""
    model, executable = serving.model, _vllm()
    assert executable is not None
    options = ["--host", HOST, "--port", str(serving.port), "--dtype", serving.dtype]
    if model.adapter is None:
        return [executable, "serve", model.base, "--served-model-name", serving.model_id, *options], {}
    settings = _adapter_config(model.adapter)
    if settings.get("use_dora"):
        raise ValueError("vLLM takes no DoRA adapters: choose --engine transformers")
    rank = _lora_rank(settings)
    fitting = next((allowed for allowed in VLLM_RANKS if allowed >= rank), None)
    if fitting is None:
        raise ValueError(f"vLLM takes adapters up to rank {VLLM_RANKS[-1]}, not {rank}: choose --engine transformers")
    adapter = ["--enable-lora", "--max-lora-rank", str(fitting), "--lora-modules", f"{serving.model_id}={model.adapter}"]
    return [executable, "serve", model.base, "--served-model-name", f"{serving.model_id}-start", *adapter, *options], {}


COMMANDS: dict[Engine, Callable[[Serving], tuple[list[str], dict[str, str]]]] = {
    "vllm": _vllm_command,
    "transformers": _transformers_command,
}
