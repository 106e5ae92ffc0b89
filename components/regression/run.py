"""The door of the regression suite: what each model solves, and what the challenger has lost against the champion."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.artifacts import derive_seed
from components.config import PolicyConfig, RegressionConfig, SamplingEngine
from components.records import ModelRef
from components.regression.answering import Asking, Outcomes, solve
from components.regression.harness_answers import solve_harness
from components.regression.suite import load_suite
from components.statistics.non_inferiority import paired_loss

CACHE = "regression"
"""Directory of kept outcomes, in that of the campaign."""
SHOWN = 10
"""Items named that only the champion solves."""


def regress(
    models: Mapping[str, ModelRef],
    *,
    config: RegressionConfig,
    limits: PolicyConfig,
    engine: SamplingEngine,
    batch_size: int,
    cache: Path,
    tensor_parallel_size: int = 1,
    seed: int = 0,
) -> dict[str, Any]:
    """Have models solve the tasks, and compare challenger and champion on each.

    Every rank of the stage calls this. Models with equal digests are one model, and what a model has solved in an
    earlier round is read from the cache, so a round asks its challenger only.

    Args:
        models: `challenger` and `champion`, and others that are measured beside them, such as `start`.
        config: The suite.
        limits: Precision, quantization and system prompt of the policy.
        engine: Engine that samples the answers.
        batch_size: Prompts that are decoded together; 0 takes as many as fit.
        cache: Directory of kept outcomes, `CACHE` in that of the campaign.
        tensor_parallel_size: GPUs of one copy of a model.
        seed: Of answers that are sampled; another one in each round would ask the champion again.

    Returns:
        What `evaluation.json` holds as `regression`; empty without tasks. `sources` are the configured tasks, `digest`
        is that of their content, and `tasks` has by name `num_items`, the share that each model solves (`solved`),
        `loss` (`value`, `upper`, `confidence`, `n`), `lost` and `won`, the numbers of items that only the champion or
        only the challenger solves, and `lost_items`, the first of them by id.

    Raises:
        ValueError: A task or model cannot be used, or a prompt is too long.
        RuntimeError: A model's logits are not finite.
    """
    if not config.tasks:
        return {}
    suite = load_suite(config)
    asking = Asking(config, limits, engine, batch_size, tensor_parallel_size, seed)
    by_digest: dict[str, dict[str, Outcomes]] = {}
    for ref in models.values():
        if ref.digest not in by_digest:
            outcomes = solve(ref, suite.tasks, asking, cache=cache)
            by_digest[ref.digest] = outcomes | solve_harness(ref, suite.of_harness, asking, cache=cache)
    names = list(by_digest[models["challenger"].digest])
    return {
        "sources": list(config.tasks),
        "digest": suite.digest,
        "tasks": {
            name: compare({model: by_digest[ref.digest][name] for model, ref in models.items()}, config, name=name)
            for name in names
        },
    }


def compare(outcomes: Mapping[str, Outcomes], config: RegressionConfig, *, name: str) -> dict[str, Any]:
    """Return what `evaluation.json` holds of one task; arguments and result as for `regress`."""
    challenger, champion = outcomes["challenger"].values, outcomes["champion"].values
    loss = paired_loss(
        list(challenger.values()),
        [champion[item] for item in challenger],
        confidence=config.confidence,
        seed=derive_seed("regression", name),
    )
    lost = [item for item, value in challenger.items() if champion[item] > value]
    return {
        "num_items": loss.num_items,
        "solved": {model: _mean(list(each.values.values())) for model, each in outcomes.items()},
        "loss": {"value": loss.value, "upper": loss.upper, "confidence": config.confidence, "n": loss.num_items},
        "lost": loss.lost,
        "won": loss.won,
        "lost_items": lost[:SHOWN],
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
