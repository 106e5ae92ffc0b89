"""A sweep through the real flow, on campaigns that take seconds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient

from components.config import CampaignConfig, SweepConfig, load_config, load_sweep
from components.sweep.files import SweepResults, sweep_directory
from components.tracking import tracking_uri
from flows.sweep import sweep

Make = Callable[..., CampaignConfig]


@pytest.fixture
def write_sweep(make_config: Make, tmp_path: Path) -> Callable[..., SweepConfig]:
    base = tmp_path / "base.yaml"

    def write(*, of_base: dict[str, dict[str, Any]] | None = None, **changes: Any) -> SweepConfig:
        values = make_config().model_dump(mode="json", exclude_defaults=True)
        for section, keys in (of_base or {}).items():
            values[section] |= keys
        base.write_text(yaml.safe_dump(values))
        parameters = {"training.learning_rate": {"choices": [3e-4, 1e-6]}}
        values = {"sweep": "tiny", "base": str(base), "rounds": 1, "trials": 3, "confirm_seeds": [11]}
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump(values | {"parameters": parameters} | changes))
        return load_sweep(path)

    return write


@pytest.mark.usefixtures("prefect_session")
def test_sweep_searches_confirms_and_writes_a_config(runs: Path, write_sweep: Callable[..., SweepConfig]) -> None:
    # From a rate that hardly moves the model, so that the other choice wins.
    base: dict[str, dict[str, Any]] = {
        "training": {"learning_rate": 1e-9, "epochs": 2},
        "prompts": {"per_round": 96, "num_held_out": 256},
        "gate": {"min_length_ratio": 0.0, "min_length_ratio_to_start": 0.0},
    }
    slow: dict[str, Any] = {"of_base": base, "trials": 2}
    config = write_sweep(parameters={"training.learning_rate": {"choices": [1e-9, 3e-4]}}, **slow)
    results = SweepResults.model_validate(sweep(config))
    assert [trial.state for trial in results.trials] == ["done"] * 2
    assert results.best is not None
    assert results.best.values == {"training.learning_rate": 3e-4}
    assert results.best.value is not None
    assert results.best.value > 0.6
    assert results.confirmation is not None
    assert [outcome.arm for outcome in results.confirmation.outcomes] == ["default", "winner"]
    directory = sweep_directory("tiny")
    winner = load_config(directory / "winner.yaml")
    assert (winner.campaign, winner.training.learning_rate) == ("tiny-winner", 3e-4)
    searched = load_config(runs / "tiny.trial-000/config.json").prompts.held_out
    confirmed = load_config(runs / "tiny-confirm.winner.seed-11/config.json").prompts.held_out
    assert searched == str(directory / "search.jsonl")
    assert confirmed == str(directory / "confirm.jsonl")
    client = MlflowClient(tracking_uri(runs))
    experiment = client.get_experiment_by_name("sweeps/tiny")
    assert len(client.search_runs([experiment.experiment_id])) == 2
    assert SweepResults.model_validate(sweep(config)) == results
    faster = base | {"training": {"learning_rate": 3e-4, "epochs": 2}}
    other = {"training.learning_rate": {"choices": [1e-9, 2e-3]}}
    for changes in ({"parameters": other}, {"rounds": 2}, {"seed": 5}, {"of_base": faster}):
        with pytest.raises(ValueError, match=r"sweep tiny began with another config \(.* -> .*\): undo the change"):
            sweep(write_sweep(**slow | {"parameters": config.model_dump()["parameters"]} | changes))


@pytest.mark.usefixtures("prefect_session")
def test_sweep_of_which_every_trial_fails_says_why(
    runs: Path, write_sweep: Callable[..., SweepConfig], make_config: Make
) -> None:
    parameters = {"validation.min_pairs": {"choices": [9000, 9001]}}
    config = write_sweep(parameters=parameters, of_base={"validation": {"min_pairs": 9000}}, trials=2)
    with pytest.raises(ValueError, match=r"all trials of tiny failed; the last one: .*900"):
        sweep(config)
    assert not (sweep_directory("tiny") / "winner.yaml").exists()
