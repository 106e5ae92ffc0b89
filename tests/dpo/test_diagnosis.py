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
from components.config import CampaignConfig, TrainingConfig, load_config
from components.config.shipped import conf_path
from components.dpo import stage
from components.dpo.diagnosis import FEWEST_STEPS, Setting, diagnose, likeness, reference_moved, unable_to_learn
from components.dpo.schedules import learning_rates
from components.records import TrainRequest

Make = Callable[..., TrainRequest]
SETTING = Setting(
    learning_rate=1e-6,
    beta=0.1,
    dtype="float32",
    reference_chosen_logps=-60.0,
    chosen_tokens=30.0,
    pairs_per_step=64,
    epochs=1,
    evaluated_margin=None,
)


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
            "in bfloat16 a change below 0.2 % of a weight shows only when later ones add to it",
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


@pytest.mark.parametrize("steps", [2, 3, FEWEST_STEPS - 1])
def test_diagnose_few_steps_that_learned_nothing_are_named_with_number_and_remedy(steps: int) -> None:
    (cause,) = diagnose(curves(chosen=0.0005, rejected=-0.0005, steps=steps), SETTING)
    assert f"after {steps} steps the margins have grown by 0.0010 and the loss is 0.692" in cause
    assert "training.learning_rate = 1e-06 is too small: try ten times as much, or more steps" in cause
    assert "(training.pairs_per_step, now 64, and training.epochs, now 1)" in cause


@pytest.mark.parametrize("steps", [2, FEWEST_STEPS - 1])
def test_diagnose_few_steps_that_learned_are_healthy(steps: int) -> None:
    assert diagnose(curves(chosen=0.05, rejected=-0.05, steps=steps), SETTING) == []


def test_diagnose_few_steps_say_only_whether_anything_was_learned() -> None:
    assert diagnose(curves(chosen=-15.0, rejected=-40.0, lost=5.0, steps=FEWEST_STEPS - 1), SETTING) == []


@pytest.mark.parametrize(("margin", "is_stuck"), [(None, False), (0.001, True), (0.05, False)])
def test_diagnose_one_step_is_judged_by_the_evaluation_pairs(margin: float | None, is_stuck: bool) -> None:
    metrics = [{"loss": math.log(2), "grad_norm": 3.0} | dict.fromkeys(("rewards/chosen", "rewards/rejected"), 0.0)]
    metrics[0] |= {"rewards/margins": 0.0, "logps/chosen": -60.0}
    causes = diagnose(metrics, SETTING._replace(evaluated_margin=margin))
    assert [("after 1 step the margins" in cause) for cause in causes] == ([True] if is_stuck else [])


def test_unable_to_learn_seven_steps_at_1e_6_are_named_with_number_and_remedy() -> None:
    training = TrainingConfig(learning_rate=1e-6, pairs_per_step=64)
    rates = learning_rates(training, 7)
    assert sum(rates) == pytest.approx(4.5e-6)
    warning = unable_to_learn(rates, trains="all weights", pairs_per_step=64, epochs=1)
    assert warning is not None
    assert "7 steps at training.learning_rate = 1e-06 move a weight by 4.5e-06 at most" in warning
    assert "training.pairs_per_step, now 64, and training.epochs, now 1" in warning
    assert "\n" not in warning


@pytest.mark.parametrize("preset", ["demo", "qwen-ultrafeedback", "constitution", "jury", "defaults", "LoRA defaults"])
def test_unable_to_learn_no_shipped_configuration_and_no_default_is_named(preset: str) -> None:
    """A round has at most a pair per prompt; a quarter may be ties, or held out."""
    lora = {"rank": 16} if preset == "LoRA defaults" else {}
    shipped = not preset.endswith("defaults")
    config = load_config(conf_path(f"{preset}.yaml")) if shipped else CampaignConfig(campaign="a", lora=lora)
    training = config.training
    num_steps = config.prompts.per_round * 3 // 4 * training.epochs // training.pairs_per_step
    trains = "adapters" if config.lora.rank else "all weights"
    rates = learning_rates(training, num_steps)
    assert unable_to_learn(rates, trains=trains, pairs_per_step=1, epochs=1) is None


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
    assert cause.startswith("nothing was learned: after 12 steps the margins have grown by")
    assert "and the loss is 0.6931" in cause
    assert "training.learning_rate = 1e-08 is too small" in cause
    assert caplog.messages.count(cause) == 1
    (warning,) = [message for message in caplog.messages if message.startswith("this training can hardly move")]
    assert "12 steps at training.learning_rate = 1e-08" in warning


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


@pytest.mark.parametrize(
    ("chosen", "rejected", "share"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4], 1.0),
        ([1, 2, 3, 4], [1, 9, 9, 4], 0.5),
        ([1, 1], [1, 1, 1, 1], 0.5),
        ([1, 2], [1, 3, 2, 2], 0.5),
        ([5], [6, 7], 0.0),
    ],
)
def test_likeness_is_the_share_of_tokens_around_the_difference(
    chosen: list[int], rejected: list[int], share: float
) -> None:
    assert likeness(chosen, rejected) == likeness(rejected, chosen) == share


def test_diagnose_tells_pairs_that_hardly_differ_as_convergence_and_not_as_a_fault() -> None:
    flat = curves(chosen=0.001, rejected=0.0)
    (fault,) = diagnose(flat, SETTING)
    assert "is too small" in fault
    (told,) = diagnose(flat, SETTING._replace(alike=0.96))
    assert told.startswith("convergence: the loss rests at 0.69")
    assert "the policy answers as they do, and nothing is wrong" in told
    assert "is too small" in diagnose(flat, SETTING._replace(alike=0.5))[0]
    (frozen,) = diagnose(curves(chosen=0.0, rejected=0.0, grad_norm=0.0), SETTING._replace(alike=1.0))
    assert "no gradient reached the weights" in frozen
