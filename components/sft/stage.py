"""The door of supervised fine-tuning.

Read demonstrations, train on the assistant's turns, measure the loss on held-out conversations before and after. The
published directory is an ordinary model, which `policy.model` names, with its numbers beside the weights.
"""

import json
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from components.artifacts import derive_seed, digest, write_bytes, write_json
from components.config import SftConfig, SoftPromptConfig
from components.data.demonstrations import for_policy, read_demonstrations
from components.dpo.batches import Layout, Plan, token_counts
from components.dpo.checks import Probe, check_reloaded, probe_trained
from components.dpo.engine import build_engine, full_weights, join_process_group
from components.dpo.out_of_memory import explaining_out_of_memory
from components.dpo.train import Masks, Steps, measured, micro_batch_tokens, train
from components.judges.reward_model_directory import longest_read
from components.models.adapters import describe_trained, with_fresh_adapter
from components.models.dropout import AdapterDropout
from components.models.loading import load_policy, pick_device, resolve_dtype, start_ref
from components.models.noise import recompute_activations, refuse_noise
from components.models.tokens import ChatTokenizer
from components.plots.sft import sft_plot
from components.records import ModelRefused, SftRequest
from components.scoring.response_logps import ScoringPath, scores_alone, scoring_path
from components.sft.objective import SftObjective
from components.sft.preparing import load_chat_of
from components.sft.rows import PreparedRows, TokenRow, num_tokens, prepare_rows
from components.sft.saving import save_whole

CHECKPOINTS = "checkpoints"
RESULT = "sft.json"
PROBED, PROBE_TOKENS = 16, 8
"""Conversations that the saved weights must score as the trained ones did, and tokens that they must answer alike."""


@dataclass(frozen=True)
class _Work:
    """The inputs that every part of a training reads."""

    request: SftRequest
    out: Path
    rank: int
    world_size: int
    device: torch.device
    dtype: torch.dtype
    chat: ChatTokenizer
    rows: PreparedRows

    @property
    def settings(self) -> SftConfig:
        """The settings of the training."""
        return self.request.settings

    @property
    def seed(self) -> int:
        """Seed of the order of the conversations, and of the adapter."""
        return derive_seed(self.settings.seed, "sft")


class _Trained(NamedTuple):
    steps: Steps
    before: float
    """Held-out loss before the first step, in nats per token."""
    after: float
    probe: Probe
    scoring: ScoringPath


def run(request: SftRequest, out: Path) -> None:
    """Train and write the model with its tokenizer, `metrics.jsonl`, `sft.json` and `plots/loss.png`.

    Runs on one process or on every rank of torchrun; rank 0 writes. Checkpoints lie beside `out` under the digest of
    the request, so an interrupted run of the same request resumes from its last one.

    Raises:
        ValueError: The demonstrations or the base model cannot be used.
        ModelRefused: The held-out loss did not fall; everything is written.
        NonFiniteLoss: A step is not finite; no step was made with it.
        OutOfMemory: Memory ran out.
        RuntimeError: The saved weights do not score or answer as the trained ones did.
    """
    started = time.monotonic()
    rank, world_size = join_process_group()
    settings, device = request.settings, pick_device()
    dtype, chat = resolve_dtype(settings.dtype), load_chat_of(request.base, settings)
    read = read_demonstrations(str(request.demonstrations.path), split=request.split)
    if read.digest != request.demonstrations.digest:
        raise ValueError(f"{request.demonstrations.path} changed while the training was being prepared: start it again")
    read = for_policy(read, system_prompt=request.system_prompt, held_out=frozenset(request.held_out))
    torch.manual_seed(derive_seed(settings.seed, "sft"))
    model: Any = load_policy(request.base, dtype=dtype, device=device)
    rows = prepare_rows(read, chat, settings, max_tokens=longest_read(model.config, settings.max_tokens))
    work = _Work(request, out, rank, world_size, device, dtype, chat, rows)
    if settings.lora.rank:
        model = with_fresh_adapter(model, settings.lora, SoftPromptConfig())
    if settings.gradient_checkpointing:
        recompute_activations(model)
    trained, module, state = _train(work, model)
    if state is None:
        return
    save_whole(
        request.base,
        module,
        chat.tokenizer,
        state,
        out,
        has_adapter=settings.lora.rank > 0,
        stop_ids=chat.stop_ids,
    )
    del module, state
    _write(work, trained, started)
    _refuse_worse(trained, settings)


def _train(work: _Work, model: Any) -> tuple[_Trained, Any, dict[str, torch.Tensor] | None]:
    """Train; return the results, the trained module and, on rank 0, its weights."""
    settings, pad_id = work.settings, work.chat.pad_id
    training = settings.training
    objective, held_out = (SftObjective(rows, pad_id=pad_id) for rows in (work.rows.train, work.rows.held_out))
    pairs = objective.pairs
    plan = Plan([pair.tag for pair in pairs], settings.rows_per_step, settings.epochs, work.seed)
    engine = build_engine(model, training, num_steps=plan.num_steps, dtype=work.dtype)
    path = scoring_path(engine, max(pair.longest for pair in (*pairs, *held_out.pairs)))
    _refuse_unequal_forwards(work, engine)
    layout = Layout(
        token_counts(pairs, padded=not path.packed),
        settings.micro_batch_tokens or micro_batch_tokens(work.device, work.dtype),
        settings.micro_batch_rows,
        work.rank,
        work.world_size,
        padded=not path.packed,
    )
    with explaining_out_of_memory(
        "training",
        training,
        micro_batch_pairs=layout.most_pairs(settings.rows_per_step),
        has_adapter=settings.lora.rank > 0,
        knob="micro_batch_rows",
    ):
        refuse_noise(engine)
        before = _held_out_loss(engine, held_out, layout, when="before the training")
        steps = train(
            engine,
            objective,
            training,
            plan,
            layout,
            directory=work.out.parent / CHECKPOINTS / digest(work.request)[:16],
            on_first_loss=lambda means, rows: None,
            masks=_dropout_masks(work, engine),
        )
        after = _held_out_loss(engine, held_out, layout, when="after the training")
    probe = probe_trained(engine, pairs[:PROBED], pad_id, max_tokens=PROBE_TOKENS)
    return _Trained(steps, before, after, probe, path), engine.module, full_weights(engine)


def _refuse_unequal_forwards(work: _Work, engine: Any) -> None:
    """Refuse a model whose rows take a forward each if ranks share its weights: they would wait for each other."""
    if work.world_size > 1 and work.settings.zero_stage == 3 and scores_alone(engine):
        raise ValueError(
            "zero_stage = 3 on several ranks needs equally many forwards on each, but this model scores its rows one "
            "at a time: use zero_stage: 2"
        )


def _dropout_masks(work: _Work, engine: Any) -> Masks | None:
    """Return the dropout of the adapter's training passes; None if it drops nothing."""
    share = work.settings.lora.dropout
    return AdapterDropout(engine.module, share, seed=work.seed, rank=work.rank).masks if share else None


def _held_out_loss(engine: Any, held_out: SftObjective, layout: Layout, *, when: str) -> float:
    """Return the mean loss per token on the held-out conversations; every rank must call it."""
    engine.eval()
    everything = replace(layout, lengths=token_counts(held_out.pairs, padded=layout.padded))
    index, name = list(range(len(held_out.pairs))), f"the held-out demonstrations {when}"
    means, _ = measured(engine, held_out, index, everything, name=name, counted_as="held-out demonstrations")
    return means["loss"]


def _write(work: _Work, trained: _Trained, started: float) -> None:
    """Check the written model, and write the measures beside it.

    Raises:
        RuntimeError: It scores or answers differently from the trained one, or no weight was changed.
    """
    out, settings, rows = work.out, work.settings, work.rows
    saved = start_ref(out, revision="main")
    check_reloaded(saved, trained.probe, work.chat.pad_id, dtype=work.dtype, device=work.device, quantization="none")
    if saved.digest == work.request.base.digest:
        raise RuntimeError(
            f"training changed no weight: raise learning_rate ({settings.learning_rate:g}), or train in float32"
        )
    metrics = [json.loads(line) for line in trained.steps.metrics]
    for entry in metrics:
        entry["rows_per_second"] = entry.pop("pairs_per_second")
    lines = "".join(f"{json.dumps(entry, sort_keys=True)}\n" for entry in metrics)
    write_bytes(out / "metrics.jsonl", lines.encode())
    sft_plot(out / "plots" / "loss.png", metrics, before=trained.before, after=trained.after)
    content = {
        "base": work.request.base.model_dump(mode="json"),
        "demonstrations_digest": work.request.demonstrations.digest,
        "settings": settings.model_dump(mode="json"),
        "model_digest": saved.digest,
        "dtype": str(work.dtype).removeprefix("torch."),
        "trained": describe_trained(settings.lora, SoftPromptConfig()) if settings.lora.rank else "all weights",
        "train": _counts(rows.train),
        "held_out": _counts(rows.held_out) | {"before": _loss(trained.before), "after": _loss(trained.after)},
        "left_out": rows.left_out,
        "first_loss": metrics[0]["loss"],
        "last_loss": metrics[-1]["loss"],
        "num_steps": len(metrics),
        "resumed_from_step": trained.steps.resumed_from,
        "scoring": trained.scoring._asdict(),
        "num_processes": work.world_size,
        "seconds": round(time.monotonic() - started, 3),
    }
    write_json(out / RESULT, content)


def _counts(rows: list[TokenRow]) -> dict[str, int]:
    return {
        "rows": len(rows),
        "turns": sum(row.num_turns for row in rows),
        "turns_not_trained_on": sum(row.num_changed for row in rows),
        "tokens": sum(len(row.pair.prompt) + len(row.pair.chosen) for row in rows),
        "trained_tokens": num_tokens(rows),
    }


def _loss(loss: float) -> dict[str, float]:
    return {"loss": loss, "perplexity": math.exp(loss)}


def _refuse_worse(trained: _Trained, settings: SftConfig) -> None:
    """Refuse a model that does not say held-out answers more readily than its base.

    Raises:
        ModelRefused: The held-out loss did not fall.
    """
    if not settings.require_improvement or trained.after < trained.before:
        return
    raise ModelRefused(
        f"the model is not published: on held-out demonstrations its loss is {trained.after:.4f} nats per token, and "
        f"that of its base is {trained.before:.4f}: train on more demonstrations, slower (learning_rate, now "
        f"{settings.learning_rate:g}) or shorter (epochs, now {settings.epochs}), or set require_improvement: false"
    )
