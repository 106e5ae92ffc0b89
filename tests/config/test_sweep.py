from pathlib import Path
from typing import Any

import pytest
import yaml

from components.config import SweepConfig, load_sweep
from components.config.shipped import conf_path

BETA = {"training.beta": {"low": 0.1, "high": 0.5}}


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(**changes: Any) -> Path:
        base = {"campaign": "base", "judge": {"kind": "rule", "rule": "support_reply"}}
        (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump({"sweep": "mine", "base": "base.yaml", "parameters": BETA} | changes))
        return path

    return write


def test_sweep_that_ships_is_read() -> None:
    config = load_sweep(conf_path("sweeps/beta-and-rate.yaml"))
    assert list(config.parameters) == ["training.beta", "training.learning_rate", "training.pairs_per_step"]
    assert SweepConfig.model_validate(config.model_dump()) == config


def test_sweep_trial_and_confirmation_change_only_their_values(write: Any) -> None:
    config = load_sweep(write(rounds=3))
    campaign = config.trial(4, {"training.beta": 0.3}, {"held_out": "/half.jsonl"})
    assert (campaign.campaign, campaign.num_rounds, campaign.seed) == ("mine.trial-004", 3, 1)
    assert (campaign.training.beta, campaign.prompts.held_out) == (0.3, "/half.jsonl")
    study = config.confirmation({"training.beta": 0.3}, {"held_out": "/other.jsonl"})
    assert (study.study, study.baseline, study.seeds) == ("mine-confirm", "default", (1001, 1002, 1003))
    winner, default = study.campaign("winner", 1001), study.campaign("default", 1001)
    assert (winner.training.beta, default.training.beta) == (0.3, 0.1)
    assert winner.prompts.held_out == default.prompts.held_out == "/other.jsonl"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parameters": {}}, "parameters"),
        ({"parameters": {"training.bta": {"low": 0.1, "high": 0.5}}}, r"parameters.training.bta: .*did you mean beta"),
        (
            {"parameters": {"training.beta": {"low": -1, "high": 0.5}}},
            r"parameters.training.beta: .*training.beta = -1",
        ),
        ({"parameters": {"training.beta": {"low": 0.5, "high": 0.1}}}, "low must be below high"),
        ({"parameters": {"training.beta": {"low": 0, "high": 0.1, "log": True}}}, "a range by factors begins above 0"),
        ({"parameters": {"training.loss": {"choices": ["ipo"]}}}, "has one choice"),
        ({"parameters": {"training.loss": {"choices": ["ipo", "nothing"]}}}, r"parameters.training.loss: .*nothing"),
        ({"parameters": {"training.beta": {}}}, "has neither a range nor choices"),
        ({"parameters": {"training.beta": {"low": 0.1, "high": 0.5, "choices": [1, 2]}}}, "has choices and a range"),
        ({"parameters": {"training.beta": {"low": 0.2, "high": 0.5}}}, r"has 0\.1, which would never be tried: widen"),
        ({"parameters": {"seed": {"low": 1, "high": 3}}}, "seed is set by the sweep itself"),
        ({"parameters": {"prompts.solved_score": {"low": 1, "high": 3}}}, r"parameters.prompts.solved_score: "),
        ({"parameters": {"evaluation.temperature": {"low": 0.5, "high": 1.0}}}, "evaluation differs, so that what it"),
        ({"sweep": "a name with spaces"}, "is not a valid name"),
        ({"seed": 1001}, "confirm_seeds has the seed of the search"),
        ({"base": "other.yaml"}, r"other\.yaml does not exist"),
    ],
)
def test_sweep_that_is_wrong_is_refused_in_one_line(write: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        load_sweep(write(**changes))
    assert "\n" not in str(refused.value)
