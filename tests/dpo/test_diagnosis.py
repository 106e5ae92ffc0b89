"""Each way in which a training goes wrong is named, by curves that show it and by trainings that have it.

Healthy ones are not.
"""

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from components.artifacts import read_json
from components.dpo import stage
from components.dpo.diagnosis import FEWEST_STEPS, Setting, diagnose, reference_moved
from components.records import TrainRequest

Make = Callable[..., TrainRequest]
SETTING = Setting(learning_rate=1e-6, beta=0.1, dtype="float32", reference_chosen_logps=-60.0, chosen_tokens=30.0)


def curves(
    *, chosen: float, rejected: float, steps: int = 40, start: float = 0.0, lost: float = 0.0, grad_norm: float = 3.0
) -> list[dict[str, float]]:
    """Metrics of a training whose mean rewards move evenly from the start to these ends, with noise per step."""
    lines = []
    for step in range(steps):
        share, noise = step / (steps - 1), math.sin(7.3 * step)
        rewards = {"rewards/chosen": chosen * share, "rewards/rejected": rejected * share}
        margin = (
            start
            + rewards["rewards/chosen"]
            - rewards["rewards/rejected"]
            + 0.05 * share * noise * abs(chosen - rejected)
        )
        told = {"loss": math.log1p(math.exp(-margin)), "rewards/margins": margin, "grad_norm": grad_norm}
        lines.append(rewards | told | {"logps/chosen": -60.0 - 30.0 * lost * share + 2.0 * noise})
    return lines


@pytest.mark.parametrize(
    "metrics",
    [
        curves(chosen=0.4, rejected=-0.6),
        curves(chosen=-0.3, rejected=-1.5, lost=0.1),
        curves(chosen=0.1, rejected=0.02),
        curves(chosen=2.0, rejected=-4.0),
        curves(chosen=0.2, rejected=-0.3, start=1.5),
        curves(chosen=0.4, rejected=-0.6, steps=FEWEST_STEPS),
        [line | {"loss": 3.0 - 0.01 * step} for step, line in enumerate(curves(chosen=0.5, rejected=0.5))],
    ],
    ids=[
        "learns",
        "chosen falls a little",
        "learns slowly",
        "learns much",
        "reference is not the start",
        "short",
        "likelihood only",
    ],
)
def test_diagnose_healthy_training_finds_nothing(metrics: list[dict[str, float]]) -> None:
    assert diagnose(metrics, SETTING) == []


@pytest.mark.parametrize(
    ("metrics", "setting", "named"),
    [
        (curves(chosen=0.004, rejected=-0.004), SETTING, "stuck|learning_rate = 1e-06 is too small: try ten times"),
        (curves(chosen=0.004, rejected=-0.004, start=1.0), SETTING, "learning_rate = 1e-06 is too small"),
        (curves(chosen=0.0, rejected=0.0, grad_norm=0.0), SETTING, "no gradient reached the weights"),
        (
            curves(chosen=0.001, rejected=0.0),
            SETTING._replace(dtype="bfloat16"),
            "below 0.4 % of a weight are rounded away",
        ),
        (curves(chosen=-0.8, rejected=-0.8), SETTING, "the pairs contradict each other"),
        (curves(chosen=-1.5, rejected=-3.0, lost=0.5), SETTING, "likelihood displacement: chosen answers lost 0.4"),
        (curves(chosen=8.0, rejected=-20.0), SETTING, "exploding margins: they ended at 2"),
        (curves(chosen=-3.0, rejected=-1.0), SETTING, "diverging: the loss rose from 0."),
    ],
    ids=[
        "small rate",
        "small rate, other reference",
        "frozen",
        "bfloat16",
        "labels by chance",
        "displaced",
        "exploding",
        "diverging",
    ],
)
def test_diagnose_each_way_of_going_wrong_is_named_alone(
    metrics: list[dict[str, float]], setting: Setting, named: str
) -> None:
    (cause,) = diagnose(metrics, setting)
    assert any(part in cause for part in named.split("|")), cause
    assert "\n" not in cause


def test_diagnose_several_causes_are_all_named() -> None:
    assert [cause.split(":")[0] for cause in diagnose(curves(chosen=-15.0, rejected=-40.0, lost=5.0), SETTING)] == [
        "likelihood displacement",
        "exploding margins",
    ]


def test_diagnose_too_few_steps_says_nothing() -> None:
    assert diagnose(curves(chosen=0.0, rejected=0.0, steps=FEWEST_STEPS - 1), SETTING) == []


def test_reference_moved_by_more_than_the_arithmetic_is_named() -> None:
    cached = torch.tensor([-10.0, -20.0])
    assert reference_moved(cached, cached + 5e-4, tolerance=1e-3) is None
    moved = reference_moved(cached, cached + torch.tensor([0.0, -0.25]), tolerance=1e-3)
    assert moved is not None
    assert "differ by up to 0.250 nats" in moved


def diagnosed(request: TrainRequest, out: Path) -> list[str]:
    out.mkdir()
    stage.run(request, out)
    return read_json(out / "train.json")["diagnosis"]  # type: ignore[no-any-return]


def test_training_that_learns_has_no_diagnosis(
    make_request: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert diagnosed(make_request(epochs=4, learning_rate=2e-4), tmp_path / "run") == []
    assert not [record for record in caplog.records if record.name == stage.__name__]


def test_training_at_a_tiny_learning_rate_is_told_that_it_learned_nothing(
    make_request: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        (cause,) = diagnosed(make_request(epochs=4, learning_rate=1e-8), tmp_path / "run")
    assert cause.startswith("nothing was learned: the loss ended at 0.6931")
    assert "training.learning_rate = 1e-08 is too small" in cause
    assert caplog.messages.count(cause) == 1


def test_training_at_a_huge_learning_rate_is_named(make_request: Make, tmp_path: Path) -> None:
    causes = diagnosed(make_request(epochs=8, learning_rate=3e-2, max_grad_norm=1e3), tmp_path / "run")
    assert causes
    assert all("training.learning_rate" in cause for cause in causes)


def test_training_against_a_reference_that_moved_is_named(
    make_request: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = stage.load_policy

    def changed(*arguments: Any, **options: Any) -> Any:
        model = original(*arguments, **options)
        with torch.no_grad():
            model.get_output_embeddings().weight.mul_(1.01)
        return model

    monkeypatch.setattr(stage, "load_policy", changed)
    (cause,) = diagnosed(make_request(), tmp_path / "run")
    assert cause.startswith("the reference moved: its log-probabilities now differ by up to")


def test_training_at_a_rate_that_displaces_is_named(make_request: Make, tmp_path: Path) -> None:
    (cause,) = diagnosed(make_request(epochs=4, learning_rate=1e-3), tmp_path / "run")
    assert cause.startswith("likelihood displacement: chosen answers lost 0.")
