"""The DeepSpeed engine: the only importer of deepspeed.

One engine for one CPU, one GPU or N ranks under torchrun, ZeRO 0 to 3.
"""

import contextlib
import functools
import logging
import math
import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from components.config import TrainingConfig
from components.dpo.schedules import learning_rate_share

OFFLOAD: dict[str, dict[str, Any]] = {
    "none": {},
    "optimizer": {"offload_optimizer": {"device": "cpu"}},
    "optimizer_and_parameters": {"offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}},
}


@functools.cache
def deepspeed_module() -> Any:
    """Import DeepSpeed with a silent stderr.

    The import takes seconds and tries out a compiler, whose complaints would go to the terminal.
    """
    if not torch.cuda.is_available():
        # It otherwise probes for accelerators and warns that it found none.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    with _silent_stderr():
        import deepspeed
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    return deepspeed


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def join_process_group() -> tuple[int, int]:
    """Join torchrun's process group, or make one of this process alone. Safe to call again.

    Returns:
        (rank, world size).
    """
    for name, value in {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0",
    }.items():
        os.environ.setdefault(name, value)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if not torch.distributed.is_initialized():
        _skip_compiled_cpu_collectives()
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        if os.environ["WORLD_SIZE"] == "1":
            # A single process meets no other, so it needs no free port, which another process could take first.
            torch.distributed.init_process_group(backend, store=torch.distributed.HashStore(), rank=0, world_size=1)
        deepspeed_module().init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def _skip_compiled_cpu_collectives() -> None:
    # On a CPU, init_distributed compiles a shared-memory collective that is not needed and fails without a C++
    # compiler.
    accelerator = deepspeed_module().accelerator.get_accelerator()
    if accelerator.device_name() == "cpu":
        builder = accelerator.create_op_builder("ShareMemCommBuilder")
        compatible = getattr(deepspeed_module().ops, "__compatible_ops__", {})
        if builder is not None and builder.NAME in compatible:
            compatible[builder.NAME] = False


def build_engine(
    model: torch.nn.Module,
    training: TrainingConfig,
    *,
    num_steps: int,
    dtype: torch.dtype,
    own_rates: Mapping[str, float] | None = None,
) -> Any:
    """Wrap a model for training with AdamW, a schedule of its rate, gradient clipping and the configured ZeRO.

    Args:
        model: Policy on its device; parameters that require gradients are trained.
        training: The training section.
        num_steps: Optimizer steps of the whole run; sets the schedule.
        dtype: Precision of weights and compute; bfloat16 keeps fp32 master weights.
        own_rates: By the beginning of a weight's name, its peak learning rate in place of the section's.
    """
    optimizer = torch.optim.AdamW(
        _with_own_rates(model, decay_groups(model, training.weight_decay), own_rates or {}),
        lr=training.learning_rate,
        betas=(0.9, training.adam_beta2),
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_share(training, step, num_steps))
    settings = {
        # The number of batches differs from step to step, so DeepSpeed learns only when a step ends (`accumulate`).
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": training.max_grad_norm,
        "zero_optimization": {"stage": training.zero_stage} | OFFLOAD[training.offload],
        # DeepSpeed would build its own Adam for offloaded state, which takes a compiler and two minutes.
        "zero_force_ds_cpu_optimizer": False,
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": dtype == torch.bfloat16},
        "steps_per_print": 2**31,
    }
    engine, *_ = deepspeed_module().initialize(model=model, optimizer=optimizer, lr_scheduler=schedule, config=settings)
    if training.zero_stage == 0 and dtype == torch.bfloat16:
        _forget_empty_step(engine)
    return engine


def decay_groups(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return the trained weights as an optimizer's parameter groups: those that decay, and those that do not.

    Matrices and embeddings decay. Biases, the scales of norms and Mamba's rates do not: 0 means something else for
    them than "small". A group that would be empty is left out, since DeepSpeed's first step fails on it.
    """
    trainable = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    if not weight_decay:
        return [{"params": [weight for _, weight in trainable], "weight_decay": 0.0}]
    decaying: list[torch.Tensor] = []
    exempt: list[torch.Tensor] = []
    for name, weight in trainable:
        # Biases of several experts are stacked to a matrix.
        is_exempt = weight.ndim < 2 or name.endswith(("bias", "A_log"))
        (exempt if is_exempt else decaying).append(weight)
    groups = [{"params": decaying, "weight_decay": weight_decay}, {"params": exempt, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _with_own_rates(
    model: torch.nn.Module, groups: list[dict[str, Any]], own_rates: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Split an optimizer's parameter groups, so that weights with a learning rate of their own have it."""
    rate_of = {
        id(weight): rate
        for beginning, rate in own_rates.items()
        for name, weight in model.named_parameters()
        if name.startswith(beginning)
    }
    split: list[dict[str, Any]] = []
    for group in groups:
        by_rate: defaultdict[float | None, list[torch.nn.Parameter]] = defaultdict(list)
        for weight in group["params"]:
            by_rate[rate_of.get(id(weight))].append(weight)
        split += [
            group | {"params": weights} | ({} if rate is None else {"lr": rate}) for rate, weights in by_rate.items()
        ]
    return split


@torch.no_grad()
def _forget_empty_step(engine: Any) -> None:
    """Undo the step without gradients with which DeepSpeed allocates Adam's state at ZeRO 0 in bfloat16.

    Adam's bias correction would count it, so that the first step is 26 % too small, and weight decay would be applied.
    """
    for weights, masters in zip(engine.optimizer.fp16_groups, engine.optimizer.fp32_groups, strict=True):
        for weight, master in zip(weights, masters, strict=True):
            master.copy_(weight)
    for state in engine.optimizer.optimizer.state.values():
        state["step"].zero_()


def accumulate(engine: Any, loss: torch.Tensor, *, is_last: bool) -> None:
    """Add the gradient of a micro-batch's loss to the step's; the last one averages the ranks' gradients."""
    engine.set_gradient_accumulation_boundary(is_last)
    engine.backward(loss)


def optimizer_step(engine: Any) -> float:
    """Make the optimizer step that ends an accumulation, unless the gradient is not finite.

    Returns:
        The global L2 norm of the gradients before clipping, the same on every rank. If it is NaN or infinite,
        weights and optimizer stay as they were: DeepSpeed's own optimizers (ZeRO above 0, bfloat16) skip such a step by
        themselves, torch's does not.
    """
    if _reports_grad_norm(engine):
        engine.step()
        return float(engine.get_global_grad_norm())
    norm = _plain_grad_norm(engine)
    if math.isfinite(norm):
        engine.step()
    return norm


def _reports_grad_norm(engine: Any) -> bool:
    # DeepSpeed keeps no norm for a plain fp32 optimizer at ZeRO 0.
    return engine.zero_optimization_stage() > 0 or engine.bfloat16_enabled()


def _plain_grad_norm(engine: Any) -> float:
    gradients = [parameter.grad for parameter in engine.module.parameters() if parameter.grad is not None]
    return float(torch.nn.utils.get_total_norm(gradients))


def full_weights(engine: Any) -> dict[str, torch.Tensor] | None:
    """Return the trained tensors on the CPU, gathered from all ranks, on rank 0; None elsewhere.

    Every rank must call it. If all weights of a model are trained, these are all its tensors. If a model has frozen
    weights, they are the trained ones only, such as the adapter's: the others lie on disk and would fill the memory of
    one machine. Tied weights come once, under their first name: copies under both names would be saved as two tensors.
    """
    partitioned, first = engine.zero_optimization_stage() == 3, torch.distributed.get_rank() == 0
    has_frozen = any(not parameter.requires_grad for parameter in engine.module.parameters())
    gathered: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in engine.module.state_dict(keep_vars=True).items():
        if id(tensor) in seen or (has_frozen and not tensor.requires_grad):
            continue
        seen.add(id(tensor))
        whole = (
            deepspeed_module().zero.GatheredParameters([tensor])
            if partitioned and hasattr(tensor, "ds_id")
            else contextlib.nullcontext()
        )
        with whole:
            if first:
                gathered[name] = tensor.detach().to("cpu", copy=True)
    return gathered if first else None


def master_weights(engine: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the fp32 master of every trained weight of a bfloat16 engine, whole; every rank must run through all.

    Yields:
        The weight's name, as in `full_weights`, and its master, on the engine's device.
    """
    replicated = _replicated_masters(engine)
    for name, parameter in engine.module.named_parameters():
        if parameter.requires_grad:
            own = replicated.get(id(parameter))
            yield name, deepspeed_module().utils.safe_get_full_fp32_param(parameter) if own is None else own.detach()


def set_master(engine: Any, name: str, master: torch.Tensor) -> None:
    """Replace the fp32 master of a trained weight; the bfloat16 weight stays. Every rank must call it."""
    parameter, master = engine.module.get_parameter(name), master.to(engine.device)
    own = _replicated_masters(engine).get(id(parameter))
    if own is None:
        deepspeed_module().utils.safe_set_full_fp32_param(parameter, master)
    else:
        own.data.copy_(master)


def trained_weights(engine: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the fp32 value of every trained weight, whole; every rank must run through all.

    Yields:
        The weight's name, as in `full_weights`, and its value: the master in bfloat16, else the weight itself.
    """
    if engine.bfloat16_enabled():
        yield from master_weights(engine)
        return
    for name, parameter in engine.module.named_parameters():
        if parameter.requires_grad:
            with _whole(parameter):
                yield name, parameter.detach()


def set_weight(engine: Any, name: str, value: torch.Tensor) -> None:
    """Replace the value of a trained weight, after the last step; every rank must call it with the same value."""
    parameter = engine.module.get_parameter(name)
    if engine.bfloat16_enabled():
        set_master(engine, name, value)
    with torch.no_grad(), _whole(parameter, modifier_rank=0):
        parameter.copy_(value)


def _whole(parameter: torch.Tensor, *, modifier_rank: int | None = None) -> contextlib.AbstractContextManager[Any]:
    """Gather a weight from all ranks within the block; what rank `modifier_rank` changes is spread again."""
    if not hasattr(parameter, "ds_id"):
        return contextlib.nullcontext()
    gathered: contextlib.AbstractContextManager[Any] = deepspeed_module().zero.GatheredParameters(
        [parameter], modifier_rank=modifier_rank
    )
    return gathered


def _replicated_masters(engine: Any) -> dict[int, torch.Tensor]:
    """Return the masters of ZeRO 0 by the id of their weight; DeepSpeed's own access knows those of ZeRO 1 to 3."""
    if engine.zero_optimization_stage() > 0:
        return {}
    groups = zip(engine.optimizer.fp16_groups, engine.optimizer.fp32_groups, strict=True)
    return {id(weight): master for group in groups for weight, master in zip(*group, strict=True)}


def save_state(engine: Any, directory: Path, step: int) -> None:
    """Write the optimizer, schedule and weights of every rank under `directory`; every rank must call it."""
    engine.save_checkpoint(str(directory), tag=f"step-{step}", save_latest=False)


def load_state(engine: Any, directory: Path, step: int) -> None:
    """Restore what `save_state` wrote; every rank must call it.

    Raises:
        RuntimeError: DeepSpeed could not load it.
    """
    loaded, _ = engine.load_checkpoint(str(directory), tag=f"step-{step}")
    if loaded is None:
        raise RuntimeError(f"DeepSpeed could not load the checkpoint {directory}")
