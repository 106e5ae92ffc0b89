"""Learning rates worked by hand, held against torch's and transformers' own, and the same after a resume."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from transformers import get_scheduler

from components.artifacts import read_json
from components.config import TrainingConfig
from components.dpo.schedules import SCHEDULES, learning_rate_share, learning_rates
from components.dpo.stage import run
from components.records import TrainRequest

HALF = math.sqrt(0.5)
BY_HAND: dict[str, tuple[dict[str, Any], list[float]]] = {
    # Eight steps, two of them warm-up; the ninth value would be that of a step behind the last.
    "linear": ({}, [0.5, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0]),
    "linear with a floor": (
        {"min_learning_rate_share": 0.4},
        [0.5, 1, 1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4],
    ),
    "cosine": (
        {"schedule": "cosine"},
        [0.5, 1, 1, 0.5 + math.sqrt(3) / 4, 0.75, 0.5, 0.25, 0.5 - math.sqrt(3) / 4, 0],
    ),
    "cosine with a floor": (
        {"schedule": "cosine", "min_learning_rate_share": 0.2},
        [0.5, 1, 1, 0.6 + math.sqrt(3) / 5, 0.8, 0.6, 0.4, 0.6 - math.sqrt(3) / 5, 0.2],
    ),
    "constant": ({"schedule": "constant"}, [0.5, *[1] * 8]),
    "inverse_sqrt": (
        {"schedule": "inverse_sqrt"},
        [0.5, 1, *(math.sqrt(2 / step) for step in (3, 4, 5, 6, 7, 8, 9))],
    ),
    "wsd": ({"schedule": "wsd", "decay_share": 0.5}, [0.5, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0]),
    "wsd with a floor": (
        {"schedule": "wsd", "decay_share": 0.25, "min_learning_rate_share": 0.1},
        [0.5, 1, 1, 1, 1, 1, 1, 0.55, 0.1],
    ),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_learning_rate_share_by_hand(name: str) -> None:
    settings, expected = BY_HAND[name]
    training = TrainingConfig(warmup_share=0.25, **settings)
    assert [learning_rate_share(training, step, 8) for step in range(9)] == pytest.approx(expected)


def test_learning_rate_share_of_the_default_has_the_bits_of_earlier_versions() -> None:
    """A floor of zero must not move the last bit: published campaigns go on with the same steps."""
    training = TrainingConfig(warmup_share=0.1)
    for num_steps in (1, 7, 33, 1000):
        warmup = round(0.1 * num_steps)
        former = [
            (step + 1) / warmup if step < warmup else max(0.0, (num_steps - step) / max(1, num_steps - warmup))
            for step in range(num_steps)
        ]
        assert learning_rates(training, num_steps) == [training.learning_rate * share for share in former]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("warmup_share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 10])
def test_learning_rate_share_of_short_trainings_stays_between_0_and_1(
    schedule: str, warmup_share: float, num_steps: int
) -> None:
    settings = {"schedule": schedule, "decay_share": 0.0} if schedule == "wsd" else {"schedule": schedule}
    training = TrainingConfig(warmup_share=warmup_share, **settings)
    shares = [learning_rate_share(training, step, num_steps) for step in range(num_steps + 1)]
    assert all(0 < share <= 1 for share in shares[:num_steps])
    assert shares[num_steps] >= 0


@pytest.mark.parametrize(("schedule", "theirs"), [("linear", "linear"), ("cosine", "cosine")])
def test_learning_rate_share_is_that_of_transformers_behind_the_warmup(schedule: str, theirs: str) -> None:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = get_scheduler(theirs, optimizer, num_warmup_steps=2, num_training_steps=10)
    training = TrainingConfig(schedule=schedule, warmup_share=0.2)
    for step in range(10):
        if step >= 2:  # transformers makes its first step at a rate of zero
            assert learning_rate_share(training, step, 10) == pytest.approx(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()


def test_every_schedule_can_be_configured() -> None:
    assert set(get_args(TrainingConfig.model_fields["schedule"].annotation)) == set(SCHEDULES)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"schedule": "cosine", "decay_share": 0.2},
            "decay_share has no effect on schedule cosine: set `schedule: wsd`",
        ),
        (
            {"schedule": "wsd", "warmup_share": 0.6, "decay_share": 0.5},
            "0.6 and decay_share 0.5 are more than all steps",
        ),
        ({"schedule": "constant", "min_learning_rate_share": 0.1}, "no effect on schedule constant"),
        ({"min_learning_rate_share": 1.0}, "less than 1"),
    ],
)
def test_schedule_that_reads_nothing_of_a_share_is_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        TrainingConfig(**settings)


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_training_resumed_goes_on_along_the_schedule(
    zero_stage: int,
    make_request: Callable[..., TrainRequest],
    run_until: Callable[[TrainRequest, Path, int], None],
    tmp_path: Path,
) -> None:
    request = make_request(
        epochs=2, checkpoint_every=2, schedule="cosine", min_learning_rate_share=0.1, zero_stage=zero_stage
    )
    (tmp_path / "whole" / "run").mkdir(parents=True)
    run(request, tmp_path / "whole" / "run")
    run_until(request, tmp_path / "killed", 5)
    (tmp_path / "resumed").mkdir()
    run(request, tmp_path / "resumed")
    whole, resumed = (rows(tmp_path / name) for name in ("whole/run", "resumed"))
    assert read_json(tmp_path / "resumed" / "train.json")["resumed_from_step"] == 4
    for name in ("learning_rate", "loss"):
        assert [row[name] for row in resumed] == [row[name] for row in whole]
    assert [row["learning_rate"] for row in whole] == learning_rates(request.training, 6)


def rows(directory: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
