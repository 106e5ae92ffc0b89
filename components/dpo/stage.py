"""The door of DPO training: read pairs, train the policy, publish the model or adapter with its metrics."""

import json
import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import pandas as pd
import torch

from components.artifacts import digest, read_table, write_bytes, write_json
from components.campaign.models import MASTER
from components.data.content import HeldOutContents
from components.data.funnel import counted, step, too_little
from components.dpo.batches import Layout, Pair, Plan, read_pairs, token_counts
from components.dpo.checks import LOGPS_TOLERANCE, FirstLoss, Probe, check_reloaded, probe_trained
from components.dpo.constraints import constraints_of
from components.dpo.diagnosis import Setting, diagnose, likeness, reference_moved, unable_to_learn
from components.dpo.engine import build_engine, full_weights, join_process_group
from components.dpo.finite import refuse_non_finite_reference
from components.dpo.held_out import HeldOut, load_kept
from components.dpo.judged_violations import with_violations
from components.dpo.masters import publish_masters, train_on_from
from components.dpo.mixing import combined_weights, tag_weights
from components.dpo.objective import Objective, configured_loss
from components.dpo.objective_state import ObjectiveState
from components.dpo.out_of_memory import attempt_on, explaining_out_of_memory
from components.dpo.policy import takes_fresh_adapter, trainable_policy
from components.dpo.reference import PairLogps, cached, score_pairs
from components.dpo.responses import mismatched_answers, response_balance
from components.dpo.saving import refuse_unchanged, save_trained
from components.dpo.schedules import learning_rates
from components.dpo.system import sampled
from components.dpo.train import WITHOUT_DROPOUT, Masks, evaluate_pairs, micro_batch_tokens, train
from components.models.adapters import describe_trained, is_wanted, without_adapter
from components.models.dropout import AdapterDropout
from components.models.loading import load_policy, load_tokenizer, pick_device, resolve_dtype, trained_ref
from components.models.noise import refuse_noise
from components.models.tokens import load_chat
from components.plots.stages import training_plot
from components.records import Artifact, TrainRequest
from components.runtime import progress
from components.scoring.response_logps import ScoringPath, scores_alone, scoring_path
from components.validation.semantics import TOKEN_COLUMNS, encode

CHECKPOINTS = "checkpoints"
PROBED = 16
"""Training pairs that the saved weights must score as the trained ones did."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Work:
    """The inputs that every part of a training reads."""

    request: TrainRequest
    out: Path
    rank: int
    world_size: int
    device: torch.device
    dtype: torch.dtype
    tokenizer: Any
    train_pairs: list[Pair]
    eval_pairs: list[Pair]

    @property
    def scratch(self) -> Path:
        """Directory of the checkpoints and the reference's log-probabilities of exactly this request."""
        return _scratch(self.request, self.out)

    @property
    def max_tokens(self) -> int:
        """Tokens of a forward pass."""
        return self.request.training.micro_batch_tokens or micro_batch_tokens(self.device, self.dtype)

    @property
    def has_adapter(self) -> bool:
        return is_wanted(self.request.lora, self.request.soft_prompt)


def _scratch(request: TrainRequest, out: Path) -> Path:
    return out.parent / CHECKPOINTS / digest(request)[:16]


class _Trained(NamedTuple):
    metrics: list[str]
    resumed_from_step: int
    num_steps: int
    ln2_checked: bool
    evaluated: dict[str, float] | None
    probe: Probe
    scoring: ScoringPath
    from_masters: bool
    """Whether it went on from the fp32 masters of its policy."""
    master_digest: str | None
    """Digest of the masters that it published, on rank 0; None if it published none."""
    evaluations: HeldOut | None
    """Evaluations between its steps; None if there were none."""

    @property
    def of_steps(self) -> dict[str, Any]:
        """Which steps were made, and behind which one the published weights were."""
        made, kept = len(self.metrics), None if self.evaluations is None else self.evaluations.kept
        best = None if self.evaluations is None else self.evaluations.evaluations.best
        stopped = None if self.evaluations is None else self.evaluations.stopped
        return {
            "num_steps": made,
            "planned_steps": self.num_steps,
            "published_step": made if kept is None or best is None else best.step,
            "best_evaluation": None if best is None else best._asdict(),
            "stopped_early": None if made == self.num_steps else stopped,
        }


def run(request: TrainRequest, out: Path) -> None:
    """Train on the round's pairs and write `model/` or `adapter/`, `metrics.jsonl`, `system.jsonl` and `train.json`.

    In bfloat16, `master/` has the fp32 masters of the trained weights, from which a later round trains on.
    Runs on one process or on every rank of torchrun; rank 0 writes. Checkpoints lie beside `out` under the digest of
    the request, so an interrupted run of the same request resumes from its last one.

    Raises:
        NonFiniteLoss: A loss, or a log-probability of the reference, is not finite; names the pairs.
        NonFiniteGradient: A gradient is not finite; no step was made with it.
        OutOfMemory: Memory ran out; says which micro-batch fits.
        ValueError: There are unpaired responses and the loss takes pairs only, or all of them are of one kind; or the
            policy is random in training.
        RuntimeError: The first loss is not ln 2 although policy and reference are the same weights, or the saved
            weights do not score or answer as the trained ones did.
    """
    rank, world_size = join_process_group()
    device = pick_device()
    tokenizer = load_tokenizer(request.policy)
    tables = with_violations(
        [_with_tokens(request, pairs) for pairs in (request.train, request.eval)],
        request.constraints,
        scratch=_scratch(request, out),
    )
    names = ("train.parquet", "eval.parquet")
    train_pairs, eval_pairs = (read_pairs(table, source=name) for table, name in zip(tables, names, strict=True))
    work = _Work(
        request, out, rank, world_size, device, resolve_dtype(request.limits.dtype), tokenizer, train_pairs, eval_pairs
    )
    if request.training.eval_every and not eval_pairs:
        raise ValueError(
            f"training.eval_every = {request.training.eval_every} needs held-back pairs, and this round has none: "
            "raise validation.eval_share or prompts.per_round, or set `training: {eval_every: 0}`"
        )
    with sampled(out, rank=rank, device=device):
        model = trainable_policy(request, work.dtype, device)
        reference = _reference_logps(work, model)
        trained, module, state = _train(work, model, reference)
        if state is not None:
            _publish(work, trained, module, state, reference)


def _with_tokens(request: TrainRequest, pairs: Artifact) -> pd.DataFrame:
    """Read a table of pairs; one that 0.1 validated has no tokens, so its texts are rendered here."""
    table = read_table(pairs)
    if set(TOKEN_COLUMNS) <= set(table):
        return table
    chat = load_chat(request.policy, request.limits)
    encoded = encode(table, chat, limits=request.limits, held_out=HeldOutContents([], "content"))
    kept = table.assign(**encoded.tokens).drop(index=list(encoded.reasons))
    if kept.empty and not table.empty:
        reasons = Counter(reason for of_row in encoded.reasons.values() for reason in sorted(of_row))
        headline = f"no pair of {pairs.path.name} can be trained on"
        steps = [step(len(table), "pairs", counted(reasons, {}))]
        raise ValueError(too_little(headline, steps, otherwise="change the prompts, or the limits on tokens"))
    return kept


def _train(
    work: _Work, model: torch.nn.Module, reference: PairLogps | None
) -> tuple[_Trained, Any, dict[str, torch.Tensor] | None]:
    """Train; return the results, the trained module and, on rank 0, its weights."""
    training, pairs = work.request.training, work.train_pairs
    plan = Plan(
        [pair.tag for pair in pairs], training.pairs_per_step, training.epochs, work.request.seed, training.tag_shares
    )
    objective, held_out = _objectives(work, reference)
    engine = build_engine(model, training, num_steps=plan.num_steps, dtype=work.dtype)
    longest = max(pair.longest for pair in pairs)
    # The trial of packed rows compares two forwards, and so comes before anything is dropped.
    path = scoring_path(engine, longest, collisions=training.weighting == "wpo")
    layout = Layout(
        token_counts(pairs, padded=not path.packed),
        work.max_tokens,
        training.micro_batch_pairs,
        work.rank,
        work.world_size,
        padded=not path.packed,
    )
    is_rounded = work.dtype == torch.bfloat16
    from_masters = is_rounded and train_on_from(engine, work.request.master)
    check, attempt = FirstLoss(work.request, objective, work.dtype), attempt_on(engine, objective)
    size = layout.most_pairs(training.pairs_per_step)
    _warn_unable_to_learn(work, plan.num_steps)
    with explaining_out_of_memory(
        "training", training, micro_batch_pairs=size, has_adapter=work.has_adapter, attempt=attempt
    ):
        refuse_noise(engine)
        _refuse_unequal_forwards(work, engine)
        masks = _dropout_masks(work, engine)
        evaluations = HeldOut(held_out, training, layout, work.scratch) if training.eval_every else None
        steps = train(
            engine,
            objective,
            training,
            plan,
            layout,
            directory=work.scratch,
            on_first_loss=check,
            masks=masks,
            held_out=evaluations,
        )
        if evaluations is not None and evaluations.kept is not None:
            load_kept(engine, evaluations.kept)
        evaluated = evaluate_pairs(engine, held_out, layout)
    limit = work.request.limits.max_response_tokens
    probe = probe_trained(engine, pairs[:PROBED], work.tokenizer.pad_token_id, max_tokens=limit)
    state = full_weights(engine)
    published = publish_masters(engine, work.out / MASTER) if is_rounded and training.keep_masters else None
    told = (steps.metrics, steps.resumed_from, plan.num_steps, check.applied, evaluated, probe, path)
    return _Trained(*told, from_masters, published, evaluations), engine.module, state


def _refuse_unequal_forwards(work: _Work, engine: Any) -> None:
    """Refuse a model whose rows take a forward each if ranks share its weights: they would wait for each other."""
    if work.world_size > 1 and work.request.training.zero_stage == 3 and scores_alone(engine):
        raise ValueError(
            "training.zero_stage = 3 on several ranks needs equally many forwards on each, but this model scores its "
            "rows one at a time: use zero_stage: 2"
        )


def _dropout_masks(work: _Work, engine: Any) -> Masks | None:
    """Return the dropout of the adapter's training passes; None if it drops nothing."""
    if not work.request.lora.dropout:
        return None
    return AdapterDropout(engine.module, work.request.lora.dropout, seed=work.request.seed, rank=work.rank).masks


def _warn_unable_to_learn(work: _Work, num_steps: int) -> None:
    training = work.request.training
    rates = learning_rates(training, num_steps)
    trains = "adapters" if work.has_adapter else "all weights"
    warning = unable_to_learn(rates, trains=trains, pairs_per_step=training.pairs_per_step, epochs=training.epochs)
    if warning is not None and work.rank == 0:
        log.warning("%s", warning)
        progress.report(0, num_steps, warning)


def _publish(
    work: _Work, trained: _Trained, module: Any, state: dict[str, torch.Tensor], reference: PairLogps | None
) -> None:
    """Write the weights, compare them with the trained ones, and write the rest."""
    request, out = work.request, work.out
    stop_ids = load_chat(request.policy, request.limits).stop_ids
    save_trained(request, module, work.tokenizer, state, out, stop_ids=stop_ids)
    saved = trained_ref(out, request.policy, request.round)
    quantization = request.limits.quantization
    check_reloaded(
        saved,
        trained.probe,
        work.tokenizer.pad_token_id,
        dtype=work.dtype,
        device=work.device,
        quantization=quantization,
    )
    refuse_unchanged(saved, request)
    metrics = [json.loads(line) for line in trained.metrics]
    write_bytes(out / "metrics.jsonl", "".join(f"{line}\n" for line in trained.metrics).encode())
    training_plot(out, metrics)
    outcome = {
        "start_digest": request.policy.digest,
        "reference_digest": request.reference.digest,
        "reference_read": reference is not None,
        "dtype": str(work.dtype).removeprefix("torch."),
        "zero_stage": request.training.zero_stage,
        "adapter": describe_trained(request.lora, request.soft_prompt),
        "quantization": request.limits.quantization,
        "policy_digest": saved.digest,
        "from_masters": trained.from_masters,
        "master_digest": trained.master_digest,
        "directory": "model" if saved.adapter is None else "adapter",
        "base_round": saved.base_round,
        "base_digest": saved.base_digest,
        "num_pairs": len(work.train_pairs),
        **trained.of_steps,
        "first_loss": metrics[0].get(WITHOUT_DROPOUT, metrics[0]["loss"]),
        "ln2_checked": trained.ln2_checked,
        "eval": trained.evaluated,
        "diagnosis": _diagnosis(work, trained, metrics, reference),
        "num_processes": work.world_size,
        "resumed_from_step": trained.resumed_from_step,
        "scoring": trained.scoring._asdict(),
    }
    write_json(out / "train.json", outcome)


def _diagnosis(
    work: _Work, trained: _Trained, metrics: list[dict[str, float]], reference: PairLogps | None
) -> list[str]:
    """Return what went wrong in the training, and log one warning per cause."""
    probe = trained.probe.pairs  # the first of the training pairs
    training, chosen = work.request.training, [index for index, pair in enumerate(work.train_pairs) if pair.chosen]
    alike = [likeness(pair.chosen, pair.rejected) for pair in work.train_pairs if pair.chosen and pair.rejected]
    setting = Setting(
        learning_rate=training.learning_rate,
        beta=training.beta,
        dtype=str(work.dtype).removeprefix("torch."),
        reference_chosen_logps=None if reference is None else float(reference.chosen[chosen].mean()),
        chosen_tokens=sum(len(work.train_pairs[index].chosen) for index in chosen) / len(chosen),
        pairs_per_step=training.pairs_per_step,
        epochs=training.epochs,
        evaluated_margin=(trained.evaluated or {}).get("rewards/margins") if trained.ln2_checked else None,
        alike=fmean(alike) if alike else None,
    )
    found = diagnose(metrics, setting)
    if reference is not None:
        cached = torch.stack([reference.chosen, reference.rejected])[:, : len(probe)]
        again = _score(work, _load_reference(work), probe, None, rank=0, world_size=1)
        tolerance = LOGPS_TOLERANCE[work.dtype] * max(1.0, float(cached.abs().max()) / 100)
        moved = reference_moved(cached, torch.stack([again.chosen, again.rejected]), tolerance=tolerance)
        found += [] if moved is None else [moved]
    for cause in found:
        log.warning("%s", cause)
    return found


def _objectives(work: _Work, reference: PairLogps | None) -> tuple[Objective, Objective]:
    """Return the objectives over the training pairs and over the evaluation pairs, with one state."""
    request, tokenizer, training = work.request, work.tokenizer, work.request.training
    constraints = constraints_of(
        request.constraints, encode=lambda text: list(tokenizer(text, add_special_tokens=False)["input_ids"])
    )
    needs_shift = configured_loss(training).needs_reward_shift
    state = ObjectiveState(request.constraints, list(constraints), shifts_rewards=needs_shift)
    balance = response_balance(work.train_pairs)
    count = len(work.train_pairs)
    end_ids = sorted(load_chat(request.policy, request.limits).stop_ids)
    by_tag = tag_weights([pair.tag for pair in work.train_pairs], training.tag_weights)

    def objective(pairs: list[Pair], places: slice, weights: list[float]) -> Objective:
        ids = {"pad_id": tokenizer.pad_token_id, "end_ids": end_ids}
        shared: dict[str, Any] = {"balance": balance, "constraints": constraints, "state": state, **ids}
        return Objective(
            pairs, None if reference is None else reference.part(places), training, pair_weights=weights, **shared
        )

    return (
        objective(work.train_pairs, slice(count), combined_weights(by_tag, [pair.weight for pair in work.train_pairs])),
        objective(work.eval_pairs, slice(count, None), [1.0] * len(work.eval_pairs)),
    )


def _reference_logps(work: _Work, model: torch.nn.Module) -> PairLogps | None:
    """Return the reference's log-probabilities of all pairs, training pairs first; None if the loss reads none."""
    request, loss, pairs = work.request, configured_loss(work.request.training), [*work.train_pairs, *work.eval_pairs]
    if not loss.needs_reference:
        return None
    mismatched = (
        [*mismatched_answers(work.train_pairs), *mismatched_answers(work.eval_pairs)] if loss.needs_kl else None
    )

    def score(reference: Any) -> PairLogps:
        return _score(work, reference, pairs, mismatched, rank=work.rank, world_size=work.world_size)

    def compute() -> PairLogps:
        if request.reference.digest != request.policy.digest:
            return score(_load_reference(work))
        if takes_fresh_adapter(request):
            with without_adapter(model) as policy:
                return score(policy)
        return score(model)

    size = request.training.micro_batch_pairs
    with explaining_out_of_memory(
        "scoring under the reference", request.training, micro_batch_pairs=size, has_adapter=work.has_adapter
    ):
        # Files of the first name that an earlier version wrote hold no sum over all tokens if `ld_alpha` is below 1.
        name = "reference.safetensors" if request.training.ld_alpha == 1 else "reference-ld.safetensors"
        logps = cached(work.scratch / name, rank=work.rank, compute=compute)
    refuse_non_finite_reference(logps, pairs)
    return logps


def _load_reference(work: _Work) -> Any:
    request = work.request
    return load_policy(
        request.reference, dtype=work.dtype, device=work.device, quantization=request.limits.quantization
    )


def _score(
    work: _Work, model: Any, pairs: list[Pair], mismatched: list[list[int]] | None, *, rank: int, world_size: int
) -> PairLogps:
    training = work.request.training
    return score_pairs(
        model.eval(),
        pairs,
        work.tokenizer.pad_token_id,
        max_tokens=work.max_tokens,
        max_rows=2 * training.micro_batch_pairs,
        rank=rank,
        world_size=world_size,
        ld_alpha=training.ld_alpha,
        mismatched=mismatched,
    )
