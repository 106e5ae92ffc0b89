"""The fp32 masters of bfloat16 weights, kept from round to round. Knows no loss.

A bfloat16 weight has 8 bits, so a change below 0.2 to 0.4 % of it is rounded away when a round is published. The next
round of the same policy trains on from the masters, so that such changes add up. What is sampled, judged, evaluated and
served is the published weight, which is exactly the rounded master: the first step's policy is its reference.
"""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from components.dpo.engine import master_weights, set_master
from components.models.loading import tensors_digest
from components.records import Artifact

FILE_BYTES = 2**32
"""A file is closed once it holds this much, so that no rank has to hold all masters in memory."""
log = logging.getLogger(__name__)


def publish_masters(engine: Any, directory: Path) -> str | None:
    """Write the masters of all trained weights; every rank must call it.

    Returns:
        Their digest on rank 0; None elsewhere.
    """
    is_first = torch.distributed.get_rank() == 0
    if is_first:
        directory.mkdir()
    write_weights(master_weights(engine), directory)
    return tensors_digest(_files_in(directory)) if is_first else None


def write_weights(weights: Iterable[tuple[str, torch.Tensor]], directory: Path) -> None:
    """Write fp32 values of weights, by name; every rank must call it, and the first one writes."""
    is_first = torch.distributed.get_rank() == 0
    for number, tensors in enumerate(_files(weights, is_first), 1):
        if is_first:
            save_file(tensors, directory / f"master-{number:05d}.safetensors")


def _files(masters: Iterable[tuple[str, torch.Tensor]], is_first: bool) -> Iterable[dict[str, torch.Tensor]]:
    file: dict[str, torch.Tensor] = {}
    num_bytes = 0
    for name, master in masters:
        if is_first:
            file[name] = master.to("cpu", copy=True).contiguous()
        num_bytes += master.nbytes
        if num_bytes >= FILE_BYTES:
            yield file
            file, num_bytes = {}, 0
    if num_bytes:
        yield file


def train_on_from(engine: Any, masters: Artifact | None) -> bool:
    """Give a bfloat16 engine the masters that its policy was rounded from; every rank must call it.

    Args:
        engine: Engine with the policy's weights, before its first step.
        masters: Directory of the masters that were published with the policy; None if there were none.

    Returns:
        Whether it did. False if there are none, if they were removed, or if other weights are trained than then.

    Raises:
        RuntimeError: The files are not those that were published, or do not round to the policy.
    """
    if masters is None:
        return False
    files = _files_in(masters.path)
    if not files:
        log.warning(
            "the fp32 masters %s were removed: this round starts from the published bfloat16 weights, so what earlier "
            "rounds changed by less than half a unit of a weight is lost",
            masters.path,
        )
        return False
    remedy = f"restore {masters.path}, or remove it to start from the published weights"
    if tensors_digest(files) != masters.digest:
        raise RuntimeError(f"the fp32 masters no longer match their recorded digest: {remedy}")
    file_of = {name: file for file in files for name in _names(file)}
    if file_of.keys() != {name for name, weight in engine.module.named_parameters() if weight.requires_grad}:
        log.info("the policy's fp32 masters are of other weights than those that are trained now, and are not read")
        return False
    for name, rounded in master_weights(engine):
        with safe_open(file_of[name], framework="pt") as tensors:
            master = tensors.get_tensor(name).to(rounded.device)
        if not torch.equal(master.to(torch.bfloat16).float(), rounded):
            raise RuntimeError(f"the fp32 master of {name} does not round to the policy's weight: {remedy}")
        set_master(engine, name, master)
    return True


def _files_in(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.safetensors"))


def _names(file: Path) -> list[str]:
    with safe_open(file, framework="pt") as tensors:
        return list(tensors.keys())
