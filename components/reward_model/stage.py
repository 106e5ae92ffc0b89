"""The door of a reward model's training.

Read pairs, train a Bradley-Terry head, measure the saved model as the judge that it will be. The published directory is
the one that the judge `reward_model` loads, with its measures beside the weights.
"""

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from components.artifacts import derive_seed, digest, write_bytes, write_json
from components.config import JudgeSettings, RewardModelConfig
from components.data.messages import parse_messages
from components.dpo.batches import Layout, Pair, Plan, token_counts
from components.dpo.engine import build_engine, full_weights, join_process_group
from components.dpo.out_of_memory import explaining_out_of_memory
from components.dpo.train import Steps, micro_batch_tokens, train
from components.judges.protocol import Group, scores
from components.judges.reward_model import RewardModelJudge
from components.judges.reward_model_directory import longest_read
from components.models.loading import load_tokenizer, pick_device, resolve_dtype
from components.plots.reliability import reliability_plot
from components.records import ModelRefused, RewardModelRequest
from components.reward_model.model import HEAD, Headed, load_with_head, rewards
from components.reward_model.objective import RewardObjective, sharing_prompts
from components.reward_model.pairs import PreparedPairs, prepare_pairs, read_pair_table
from components.scoring.packed.rewards import packing_of_rewards
from components.scoring.packed.trial import Packing
from components.scoring.response_logps import ScoringPath
from components.statistics.calibration import Prediction, Quality, quality

CHECKPOINTS = "checkpoints"
RESULT = "reward_model.json"
CHOSEN, REJECTED = 0, 1
REWARD_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.25}
"""Largest distance of a reward of the reloaded model from that of the trained one, relative to rewards above 1."""

log = logging.getLogger(__name__)


class _Trained(NamedTuple):
    steps: Steps
    scoring: ScoringPath
    probe: list[Pair]
    rewards: torch.Tensor
    """Rewards of the probe's chosen conversations, (pairs,)."""


def run(request: RewardModelRequest, out: Path) -> None:
    """Train and write the model with its tokenizer, `metrics.jsonl`, `reward_model.json` and `plots/reliability.png`.

    Runs on one process or on every rank of torchrun; rank 0 writes. Checkpoints lie beside `out` under the digest of
    the request, so an interrupted run of the same request resumes from its last one.

    Raises:
        ValueError: The pairs or the base model cannot be used.
        ModelRefused: It is not shown to order held-out pairs better than `min_accuracy`; everything is written.
        NonFiniteLoss: A step is not finite; no step was made with it.
        OutOfMemory: Memory ran out.
        RuntimeError: The first loss is not ln 2 under a fresh head, or the saved model does not score as the trained
            one did.
    """
    _, world_size = join_process_group()
    settings, tokenizer = request.settings, load_tokenizer(request.base)
    dtype, device = resolve_dtype(settings.dtype), pick_device()
    headed = load_with_head(request.base, pad_id=tokenizer.pad_token_id, dtype=dtype, device=device)
    read = read_pair_table(str(request.pairs.path), split=request.split)
    if read.digest != request.pairs.digest:
        raise ValueError(f"{request.pairs.path} changed while the reward model was being prepared: start it again")
    pairs = prepare_pairs(read, tokenizer, settings, max_tokens=longest_read(headed.model.config, settings.max_tokens))
    trained, module, state = _train(request, headed, pairs, out)
    if state is None:
        return
    module.save_pretrained(out, state_dict=state, safe_serialization=True)
    tokenizer.save_pretrained(out)
    judge = _reloaded(request, pairs, trained, tokenizer, out)
    predictions = _predictions(judge, pairs)
    overall = _write(request, pairs, trained, predictions, out, world_size)
    _refuse_random(overall, settings)


def _train(
    request: RewardModelRequest, headed: Headed, pairs: PreparedPairs, out: Path
) -> tuple[_Trained, Any, dict[str, torch.Tensor] | None]:
    """Train; return the results, the trained module and, on rank 0, its weights."""
    training, seed = request.settings.training, derive_seed(request.settings.seed, "reward_model")
    rank, world_size = join_process_group()
    model, is_fresh = headed
    pad_id = model.config.get_text_config().pad_token_id
    # The trial comes before weights are sharded.
    packing = packing_of_rewards(model)
    objective = RewardObjective(sharing_prompts(pairs.train, pad_id=pad_id), pad_id=pad_id)
    scoring = _scoring_path(packing, max(pair.longest for pair in objective.pairs))
    layout = Layout(
        token_counts(objective.pairs, padded=not scoring.packed),
        micro_batch_tokens(model.device, model.dtype),
        training.micro_batch_pairs,
        rank,
        world_size,
        padded=not scoring.packed,
    )
    plan = Plan([pair.tag for pair in pairs.train], training.pairs_per_step, training.epochs, seed)
    engine = build_engine(
        model,
        training,
        num_steps=plan.num_steps,
        dtype=next(model.parameters()).dtype,
        own_rates={HEAD: request.settings.head_learning_rate} if is_fresh else None,
    )

    def check_first_loss(means: Any, _: list[int]) -> None:
        if is_fresh and not math.isclose(means["loss"], math.log(2), abs_tol=1e-3):
            raise RuntimeError(
                f"the first loss is {means['loss']:.4f} instead of ln 2, although the head is fresh: the model "
                f"cannot be trusted"
            )

    scratch = out.parent / CHECKPOINTS / digest(request)[:16]
    with explaining_out_of_memory(
        "training", training, micro_batch_pairs=training.micro_batch_pairs, has_adapter=False
    ):
        steps = train(engine, objective, training, plan, layout, directory=scratch, on_first_loss=check_first_loss)
    probe = pairs.train[: training.micro_batch_pairs]
    engine.eval()
    with torch.no_grad():
        found = rewards(engine, [pair.chosen for pair in probe], pad_id=pad_id).cpu()
    return _Trained(steps, scoring, probe, found), engine.module, full_weights(engine)


def _scoring_path(packing: Packing, longest: int) -> ScoringPath:
    if longest <= packing.longest:
        return ScoringPath(True, None)
    too_long = f", and conversations are up to {longest} tokens long" if packing.longest else ""
    return ScoringPath(False, packing.reason + too_long)


def _reloaded(
    request: RewardModelRequest, pairs: PreparedPairs, trained: _Trained, tokenizer: Any, out: Path
) -> RewardModelJudge:
    """Return the judge that reads the written model.

    Raises:
        RuntimeError: It scores the probe differently from the trained model.
    """
    settings = request.settings
    judge = RewardModelJudge(
        JudgeSettings(
            model=str(out),
            dtype=settings.dtype,
            batch_size=2 * settings.micro_batch_pairs,
            max_tokens=settings.max_tokens,
        )
    )
    dtype = resolve_dtype(settings.dtype)
    again = torch.tensor(judge.logits([pair.chosen for pair in trained.probe]))
    distance = float((again - trained.rewards).abs().max())
    if not distance <= REWARD_TOLERANCE[dtype] * max(1.0, float(trained.rewards.abs().max())):
        raise RuntimeError(
            f"the saved reward model scores differently from the trained one (by up to {distance:.4f}): nothing is "
            f"published"
        )
    return judge


def _predictions(judge: RewardModelJudge, pairs: PreparedPairs) -> list[Prediction]:
    """Return the judge's predictions for the held-out pairs."""
    columns = (pairs.held_out_rows[name] for name in ("prompt_id", "prompt", "chosen", "rejected"))
    rows = list(zip(*columns, strict=True))
    groups = [
        Group(str(number), parse_messages(prompt), ((CHOSEN, chosen), (REJECTED, rejected)))
        for number, (_, prompt, chosen, rejected) in enumerate(rows)
    ]
    scored = scores(judge.judge(groups))
    return [
        Prediction(name, scored[str(number), CHOSEN] - scored[str(number), REJECTED], pair.p, pair.tag)
        for number, ((name, *_), pair) in enumerate(zip(rows, pairs.held_out, strict=True))
    ]


def _write(
    request: RewardModelRequest,
    pairs: PreparedPairs,
    trained: _Trained,
    predictions: Sequence[Prediction],
    out: Path,
    world_size: int,
) -> Quality:
    """Write the measures and return those of all held-out pairs."""
    settings = request.settings

    def measured(some: Sequence[Prediction]) -> Quality:
        return quality(some, confidence=settings.confidence, resamples=settings.bootstrap_resamples, seed=settings.seed)

    overall = measured(predictions)
    tags = sorted({prediction.tag for prediction in predictions})
    by_tag = {tag: measured([each for each in predictions if each.tag == tag]) for tag in tags}
    reliability_plot(out / "plots" / "reliability.png", overall.reliability)
    write_bytes(out / "metrics.jsonl", "".join(f"{line}\n" for line in trained.steps.metrics).encode())
    content = {
        "base": request.base.model_dump(mode="json"),
        "pairs_digest": request.pairs.digest,
        "settings": settings.model_dump(mode="json"),
        "num_train_pairs": len(pairs.train),
        "num_held_out_pairs": len(pairs.held_out),
        "excluded": pairs.excluded,
        "num_steps": len(trained.steps.metrics),
        "scoring": trained.scoring._asdict(),
        "last_loss": json.loads(trained.steps.metrics[-1])["loss"],
        "held_out": overall.model_dump(mode="json"),
        "held_out_by_tag": {tag: each.model_dump(mode="json") for tag, each in by_tag.items()},
        "num_processes": world_size,
        "resumed_from_step": trained.steps.resumed_from,
    }
    write_json(out / RESULT, content)
    return overall


def _refuse_random(overall: Quality, settings: RewardModelConfig) -> None:
    """Refuse a model of which it is not shown that it orders anything.

    Raises:
        ModelRefused: The lower end of the accuracy's interval is not above `min_accuracy`.
    """
    accuracy = overall.accuracy
    if not settings.min_accuracy or accuracy.low > settings.min_accuracy:
        return
    raise ModelRefused(
        f"the reward model is not published: on {overall.num_pairs} held-out pairs its accuracy is "
        f"{accuracy.value:.3f} [{accuracy.low:.3f}, {accuracy.high:.3f}] and must be shown to exceed "
        f"{settings.min_accuracy:g}, and half of the pairs differ by less than {overall.median_margin:.2g} in reward: "
        f"train on more pairs, longer (epochs, now {settings.epochs}) or faster (learning_rate, now "
        f"{settings.learning_rate:g}), hold out more (eval_share, now {settings.eval_share:g}), or set min_accuracy: 0"
    )
