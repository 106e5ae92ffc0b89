"""The door of DPO training: reads pairs, trains the policy, publishes the model or adapter with its metrics."""

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from components.adapters import describe_wanted, is_wanted, save_adapter, without_adapter
from components.artifacts import digest, read_table, write_bytes, write_json
from components.dpo.batches import Layout, Pair, Plan, encode_pairs
from components.dpo.constraints import constraints_of
from components.dpo.diagnosis import Setting, diagnose, reference_moved
from components.dpo.engine import build_engine, full_weights, join_process_group
from components.dpo.finite import refuse_non_finite_reference
from components.dpo.mixing import tag_weights
from components.dpo.objective import PAIR_LOSS, Memory, Objective, configured_loss, mismatched_answers
from components.dpo.out_of_memory import attempt_on, memory_told
from components.dpo.policy import begins_elsewhere, takes_fresh_adapter, trainable_policy
from components.dpo.reference import PairLogps, cached, score_pairs
from components.dpo.reload import LOGPS_TOLERANCE, check_reloaded, probe_trained
from components.dpo.system import sampled
from components.dpo.train import evaluate_pairs, train
from components.models import load_policy, load_tokenizer, pick_device, resolve_dtype, trained_ref
from components.records import ModelRef, TrainRequest
from components.report.plots import training_plot

LN2_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
CHECKPOINTS = "checkpoints"
log = logging.getLogger(__name__)


def run(request: TrainRequest, out: Path) -> None:
    """Trains on the round's pairs and writes `model/` or `adapter/`, `metrics.jsonl`, `system.jsonl` and `train.json`.

    Runs on one process or on every rank of torchrun; rank 0 writes. Checkpoints lie beside `out` under the digest of the request, so
    an interrupted run of the same request resumes from its last one.

    Raises:
        NonFiniteLoss: A loss, or a log-probability of the reference, is not finite; names the pairs.
        NonFiniteGradient: A gradient is not finite; no step was made with it.
        OutOfMemory: Memory ran out; says which micro-batch fits.
        RuntimeError: The first loss is not ln 2 although policy and reference are the same weights, or the saved weights do not score
            or answer as the trained ones did.
    """
    rank, world_size = join_process_group()
    device = pick_device()
    with sampled(out, rank=rank, device=device):
        _run(request, out, rank, world_size, device)


def _run(request: TrainRequest, out: Path, rank: int, world_size: int, device: torch.device) -> None:
    dtype = resolve_dtype(request.limits.dtype)
    tokenizer = load_tokenizer(request.policy)
    limit = request.limits.max_response_tokens
    train_pairs = encode_pairs(read_table(request.train), tokenizer, max_response_tokens=limit, source="train.parquet")
    eval_pairs = encode_pairs(read_table(request.eval), tokenizer, max_response_tokens=limit, source="eval.parquet")
    scratch = out.parent / CHECKPOINTS / digest(request)[:16]
    model = trainable_policy(request, dtype, device)
    pairs = [*train_pairs, *eval_pairs]
    needs_kl = configured_loss(request.training).needs_kl
    mismatched = [*mismatched_answers(train_pairs), *mismatched_answers(eval_pairs)] if needs_kl else None
    training, has_adapter = request.training, is_wanted(request.lora, request.soft_prompt)
    layout = Layout.fit(
        pairs_per_step=training.pairs_per_step, micro_batch_pairs=training.micro_batch_pairs, rank=rank, world_size=world_size
    )
    with memory_told("scoring under the reference", training, micro_batch_pairs=training.micro_batch_pairs, has_adapter=has_adapter):
        reference = _reference_logps(request, model, pairs, mismatched, tokenizer.pad_token_id, scratch, (rank, world_size), dtype)
    refuse_non_finite_reference(reference.chosen, reference.rejected, pairs)

    plan = Plan([pair.tag for pair in train_pairs], training.pairs_per_step, training.epochs, request.seed, training.tag_shares)
    engine = build_engine(
        model,
        training,
        num_steps=plan.num_steps,
        micro_batch_pairs=layout.micro_batch_pairs,
        accumulation=layout.accumulation,
        dtype=dtype,
    )
    objective, held_out = _objectives(request, train_pairs, eval_pairs, reference, tokenizer)
    check = _FirstLoss(request, objective, dtype)
    attempt = attempt_on(engine, objective)
    with memory_told("training", training, micro_batch_pairs=layout.micro_batch_pairs, has_adapter=has_adapter, attempt=attempt):
        metrics, resumed = train(engine, objective, plan, layout, directory=scratch, on_first_loss=check)
        evaluated = evaluate_pairs(engine, held_out, layout)
    probe = probe_trained(engine, train_pairs[: layout.micro_batch_pairs], tokenizer.pad_token_id, max_tokens=limit)
    state = full_weights(engine)
    if state is None:
        return
    _save(request, engine.module, tokenizer, state, out)
    trained = trained_ref(out, request.policy, request.round)
    check_reloaded(trained, probe, tokenizer.pad_token_id, dtype=dtype, device=device, quantization=request.limits.quantization)
    _refuse_unchanged(trained, request)
    diagnosis = _diagnosis(
        request, [json.loads(line) for line in metrics], train_pairs, reference, probe.pairs, tokenizer.pad_token_id, dtype
    )
    write_bytes(out / "metrics.jsonl", "".join(f"{line}\n" for line in metrics).encode())
    training_plot(out, [json.loads(line) for line in metrics])
    outcome = {
        "policy_digest": trained.digest,
        "directory": "model" if trained.adapter is None else "adapter",
        "base_round": trained.base_round,
        "base_digest": trained.base_digest,
        "num_pairs": len(train_pairs),
        "num_steps": plan.num_steps,
        "first_loss": json.loads(metrics[0])["loss"],
        "ln2_checked": check.applied,
        "eval": evaluated,
        "diagnosis": diagnosis,
        "num_processes": world_size,
        "resumed_from_step": resumed,
    }
    write_json(out / "train.json", _provenance(request, dtype) | outcome)


def _diagnosis(
    request: TrainRequest,
    metrics: list[dict[str, float]],
    pairs: list[Pair],
    reference: PairLogps,
    probe: list[Pair],
    pad_id: int,
    dtype: torch.dtype,
) -> list[str]:
    """What went wrong in the training, each cause warned of once; the probe is the first of the training pairs."""
    training, count = request.training, len(pairs)
    setting = Setting(
        learning_rate=training.learning_rate,
        beta=training.beta,
        dtype=str(dtype).removeprefix("torch."),
        reference_chosen_logps=float(reference.chosen[:count].mean()),
        chosen_tokens=sum(len(pair.chosen) for pair in pairs) / count,
    )
    found = diagnose(metrics, setting)
    now = load_policy(request.reference, dtype=dtype, device=pick_device(), quantization=request.limits.quantization)
    again = score_pairs(now, probe, pad_id, batch_size=len(probe), rank=0, world_size=1, ld_alpha=training.ld_alpha).chosen
    cached_logps = reference.chosen[: len(probe)]
    moved = reference_moved(cached_logps, again, tolerance=LOGPS_TOLERANCE[dtype] * max(1.0, float(cached_logps.abs().max()) / 100))
    found += [] if moved is None else [moved]
    for cause in found:
        log.warning("%s", cause)
    return found


def _provenance(request: TrainRequest, dtype: torch.dtype) -> dict[str, Any]:
    return {
        "start_digest": request.policy.digest,
        "reference_digest": request.reference.digest,
        "dtype": str(dtype).removeprefix("torch."),
        "zero_stage": request.training.zero_stage,
        "adapter": describe_wanted(request.lora, request.soft_prompt),
        "quantization": request.limits.quantization,
    }


def _objectives(
    request: TrainRequest, train_pairs: list[Pair], eval_pairs: list[Pair], reference: PairLogps, tokenizer: Any
) -> tuple[Objective, Objective]:
    """What is minimised over the training pairs, and the same to be measured on the evaluation pairs, with one memory."""
    training = request.training
    constraints = constraints_of(request.constraints, encode=lambda text: list(tokenizer(text, add_special_tokens=False)["input_ids"]))
    memory = Memory(request.constraints, list(constraints), shifts_rewards=configured_loss(training).needs_reward_shift)
    count, tags = len(train_pairs), [pair.tag for pair in train_pairs]

    def objective(pairs: list[Pair], logps: PairLogps, weights: list[float]) -> Objective:
        ids = {"pad_id": tokenizer.pad_token_id, "end_id": tokenizer.eos_token_id}
        return Objective(pairs, logps, training, **ids, pair_weights=weights, constraints=constraints, memory=memory)

    return (
        objective(train_pairs, reference.part(slice(count)), tag_weights(tags, training.tag_weights)),
        objective(eval_pairs, reference.part(slice(count, None)), [1.0] * len(eval_pairs)),
    )


class _FirstLoss:
    """Checks that the first loss is what it must be when policy and reference are the same weights."""

    def __init__(self, request: TrainRequest, objective: Objective, dtype: torch.dtype) -> None:
        self.same_weights = request.policy.digest == request.reference.digest and not begins_elsewhere(request)
        self.objective, self.tolerance = objective, LN2_TOLERANCE[dtype]
        self.applied = False

    def __call__(self, means: Mapping[str, float], pairs: list[int]) -> None:
        expected = self.objective.expected_first_loss(pairs) if self.same_weights else None
        if expected is None:
            return
        loss = means[PAIR_LOSS]
        if abs(loss - expected) > self.tolerance * max(1.0, abs(expected) / math.log(2)):
            raise RuntimeError(
                f"the first loss is {loss:.6f} and not {expected:.6f}, although policy and reference have the same digest: "
                "the reference's log-probabilities are not this policy's"
            )
        self.applied = True


def _reference_logps(
    request: TrainRequest,
    model: torch.nn.Module,
    pairs: list[Pair],
    mismatched: list[list[int]] | None,
    pad_id: int,
    scratch: Path,
    ranks: tuple[int, int],
    dtype: torch.dtype,
) -> PairLogps:
    def score(reference: Any) -> PairLogps:
        size, share = 2 * request.training.micro_batch_pairs, {"rank": ranks[0], "world_size": ranks[1]}
        ld_alpha = request.training.ld_alpha
        return score_pairs(reference.eval(), pairs, pad_id, batch_size=size, **share, ld_alpha=ld_alpha, mismatched=mismatched)

    def compute() -> PairLogps:
        if request.reference.digest != request.policy.digest:
            other = load_policy(request.reference, dtype=dtype, device=pick_device(), quantization=request.limits.quantization)
            return score(other)
        if takes_fresh_adapter(request):
            with without_adapter(model) as policy:
                return score(policy)
        return score(model)

    return cached(scratch / "reference.safetensors", rank=ranks[0], compute=compute)


def _save(request: TrainRequest, model: Any, tokenizer: Any, state: dict[str, torch.Tensor], out: Path) -> None:
    if is_wanted(request.lora, request.soft_prompt):
        save_adapter(model, state, out / "adapter")
        tokenizer.save_pretrained(out / "adapter")
    else:
        model.save_pretrained(out / "model", state_dict=state, safe_serialization=True)
        tokenizer.save_pretrained(out / "model")


def _refuse_unchanged(trained: ModelRef, request: TrainRequest) -> None:
    if trained.digest == request.policy.digest:
        raise RuntimeError(
            f"training changed no weight: raise training.learning_rate ({request.training.learning_rate:g}), or train in float32"
        )
