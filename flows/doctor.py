"""The checks of `ratchet doctor`: would a run work here, and how fast?"""

import importlib.metadata
import os
import platform
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from components.campaign.lock import take
from components.config import BUILTIN, CampaignConfig
from components.config.shipped import conf_path
from components.runtime.addresses import without_password
from components.runtime.machine import visible_gpus
from components.runtime.printable import one_line


class Finding(NamedTuple):
    """A line of the doctor's report; if something is not fine, `detail` says how to mend it."""

    name: str
    fine: bool
    detail: str


def findings(runs: Path) -> list[Finding]:
    """Check versions, processor, accelerators, disk, locks and stores.

    Args:
        runs: Directory that holds the campaigns' directories.
    """
    return [*_versions(), _processor(), _accelerators(), _disk(runs), _locks(runs), _stores(runs)]


def model_findings(config: CampaignConfig) -> list[Finding]:
    """Load a configuration's model and try how it will be sampled and scored."""
    from components.builtin.starter import starter_model
    from components.generation.paths import describe_path, sampling_path
    from components.models.adapters import is_wanted, with_fresh_adapter
    from components.models.directory import check_model_directory, locate_model
    from components.models.loading import load_policy, pick_device, resolve_dtype
    from components.records import ModelRef
    from components.scoring.response_logps import scoring_path

    policy = config.policy
    longest = policy.max_prompt_tokens + policy.max_response_tokens
    try:
        path = starter_model() if policy.model == BUILTIN else locate_model(policy.model, policy.revision)
        check_model_directory(path)
        model = load_policy(
            ModelRef(round=0, base=str(path), revision=policy.revision, base_digest="", digest=""),
            dtype=resolve_dtype(policy.dtype),
            device=pick_device(),
            quantization=policy.quantization,
        )
        sampling = "vllm" if config.generation.engine == "vllm" else describe_path(sampling_path(model))
        if is_wanted(config.lora, config.soft_prompt):
            model = with_fresh_adapter(model, config.lora, config.soft_prompt).eval()
        scoring = scoring_path(model, longest, collisions=config.training.weighting == "wpo")
    except Exception as error:
        return [Finding("model", False, " ".join(str(error).split()) or type(error).__name__)]
    why = "packed rows" if scoring.packed else f"padded rows, which is slower: {scoring.reason}"
    return [
        Finding("model", True, f"{policy.model} as {type(model).__name__}"),
        Finding("sampling", True, sampling),
        Finding("scoring", True, why),
    ]


def _versions() -> list[Finding]:
    python = platform.python_version()
    fine = sys.version_info >= (3, 11)
    versions = [Finding("python", fine, python if fine else f"{python} is too old: install Python 3.11 or newer")]
    for line in conf_path("versions.txt").read_text().splitlines():
        pin = re.fullmatch(r"(?P<name>[\w.-]+)==(?P<version>\S+)", line.strip())
        if pin is None or pin["name"] not in NAMED:
            continue
        try:
            installed = importlib.metadata.version(pin["name"])
        except importlib.metadata.PackageNotFoundError:
            remedy = f"run `pip install {pin['name']}=={pin['version']}`"
            versions.append(Finding(pin["name"], False, f"not installed: {remedy}"))
            continue
        same = installed.split("+")[0] == pin["version"]
        versions.append(Finding(pin["name"], True, installed if same else f"{installed}; tested with {pin['version']}"))
    return versions


NAMED = {
    "torch",
    "transformers",
    "peft",
    "deepspeed",
    "datasets",
    "pandera",
    "prefect",
    "fastapi",
    "mlflow",
    "pydantic",
}


def _processor() -> Finding:
    import torch

    native = torch.cpu.get_capabilities()
    bf16 = (
        "native bfloat16"
        if native.get("avx512_bf16") or native.get("amx_bf16")
        else "no native bfloat16: float32 is faster"
    )
    return Finding("processor", True, f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {bf16}")


def _accelerators() -> Finding:
    import torch

    count = visible_gpus()
    if count and not torch.cuda.is_available():
        remedy = "install a torch that was built for this machine's driver"
        return Finding(
            "accelerators", False, f"torch {torch.__version__} cannot use the {count} visible GPUs: {remedy}"
        )
    names = [torch.cuda.get_device_name(index) for index in range(count)]
    return Finding("accelerators", True, ", ".join(names) if names else "none: stages run on the processor")


def _disk(runs: Path) -> Finding:
    existing = _existing(runs)
    free = shutil.disk_usage(existing).free / 2**30
    remedy = "" if free > 1 else ": free some space, or set RATCHET_RUNS to another disk"
    return Finding("disk", free > 1, f"{free:.0f} GiB free for {runs}{remedy}")


def _existing(runs: Path) -> Path:
    return next(path for path in (runs, *runs.parents) if path.exists())


NO_POSIX = frozenset({"fuse.s3fs", "fuse.gcsfuse", "fuse.goofys", "fuse.rclone", "fuse.mount-s3"})
"""Object stores that look like a folder: renaming is not atomic there, and locks hold on one machine."""
LOCAL_LOCKS = frozenset({"nolock", "local_lock=all", "local_lock=flock"})
"""Options of NFS with which another machine does not see a lock."""


def _locks(runs: Path) -> Finding:
    """Try the lock that keeps two starts of a campaign apart, where the campaigns are."""
    existing = _existing(runs)
    try:
        kind, options = mounted(existing, Path("/proc/self/mountinfo").read_text())
        with (
            tempfile.NamedTemporaryFile("w", dir=existing, prefix=".ratchet-doctor-") as first,
            open(first.name, "a") as second,
        ):
            excludes = take(first.file) and not take(second)
    except (OSError, ValueError) as error:
        return Finding("locks", False, one_line(str(error)))
    if kind in NO_POSIX:
        return Finding("locks", False, f"{existing} is an object store ({kind}): set RATCHET_RUNS to another disk")
    if not excludes:
        return Finding(
            "locks", False, f"flock excludes nobody on {existing} ({kind}): set RATCHET_RUNS to another disk"
        )
    if options & LOCAL_LOCKS:
        remedy = "mount it with local_lock=none, or start campaigns on one machine only"
        return Finding("locks", False, f"{existing} ({kind}, {min(options & LOCAL_LOCKS)}) hides its locks: {remedy}")
    return Finding("locks", True, f"flock works on {existing} ({kind})")


def mounted(path: Path, mountinfo: str) -> tuple[str, set[str]]:
    """Return type and options of the file system that holds a path.

    Args:
        path: An absolute path.
        mountinfo: Content of /proc/self/mountinfo.
    """
    depth, kind, options = 0, "unknown file system", set[str]()
    for line in mountinfo.splitlines():
        own, _, shared = line.partition(" - ")
        point = Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), own.split()[4]))
        # A later mount at the same place hides the earlier one.
        if path.is_relative_to(point) and len(point.parts) >= depth:
            depth, kind = len(point.parts), shared.split()[0]
            options = {*own.split()[5].split(","), *shared.split()[2].split(",")}
    return kind, options


def _stores(runs: Path) -> Finding:
    from components.tracking import tracking_uri

    prefect = without_password(os.environ.get("PREFECT_API_URL", "started for each run"))
    return Finding("stores", True, f"MLflow {without_password(tracking_uri(runs))}; Prefect server {prefect}")
