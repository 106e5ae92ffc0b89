"""A study through the real flow, on campaigns that take seconds."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient

from components.artifacts import read_json
from components.config import CampaignConfig, StudyConfig, load_study
from components.study.files import Results
from components.tracking import tracking_uri
from flows.study import study

Make = Callable[..., CampaignConfig]
VARYING = {"seconds", "peak_memory_bytes"}


@pytest.fixture
def write_study(make_config: Make, tmp_path: Path) -> Callable[..., StudyConfig]:
    base = tmp_path / "base.yaml"
    base.write_text(yaml.safe_dump(make_config().model_dump(mode="json", exclude_defaults=True)))

    def write(**changes: Any) -> StudyConfig:
        arms = {"loop": {}, "offline": {"method": "offline"}, "best": {"method": "best_of_n"}}
        values = {"study": "tiny", "base": str(base), "rounds": 2, "seeds": [1], "arms": arms} | changes
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(values, sort_keys=False))
        return load_study(path)

    return write


def run(config: StudyConfig) -> Results:
    return Results.model_validate(study(config))


def measured(results: Results) -> list[dict[str, Any]]:
    return [outcome.model_dump(exclude=VARYING) for outcome in results.outcomes]


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("prefect_session")
def test_study_runs_every_arm_and_goes_on_where_it_ended(
    runs: Path, write_study: Callable[..., StudyConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(write_study())
    assert [(outcome.arm, len(outcome.points)) for outcome in whole.outcomes] == [
        ("loop", 2),
        ("offline", 1),
        ("best", 1),
    ]
    loop, offline, best = whole.arms
    assert best.measures["reward"].value > whole.outcomes[2].start_reward
    assert best.measures["win_rate"].value > 0.6
    assert best.measures["kl"].value == pytest.approx(math.log(4) - 3 / 4)
    assert loop.verdicts == offline.verdicts == 2 * 24 * 4
    assert read_json(runs / "studies/tiny/study.json") == whole.model_dump(mode="json")
    assert "3 of 3 campaigns are done" in (runs / "studies/tiny/report.html").read_text()

    client = MlflowClient(tracking_uri(runs))
    experiment = client.get_experiment_by_name("studies/tiny")
    recorded = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert sorted(recorded) == ["best, seed 1", "loop, seed 1", "offline, seed 1"]
    assert recorded["offline, seed 1"].data.params["method"] == "offline"
    assert recorded["loop, seed 1"].data.metrics["final/win_rate"] == whole.outcomes[0].final.win_rate

    # A study that ended before its second arm.
    shutil.rmtree(runs / "tiny.offline.seed-1")
    assert measured(run(write_study())) == measured(whole)
    assert len(client.search_runs([experiment.experiment_id])) == 3


@pytest.mark.usefixtures("prefect_session")
def test_study_tells_the_arm_that_failed_and_runs_the_others(
    runs: Path, write_study: Callable[..., StudyConfig]
) -> None:
    arms = {"strict": {"change": {"validation": {"min_pairs": 10000}}}, "loop": {}}
    results = run(write_study(arms=arms, rounds=1))
    assert [failure.arm for failure in results.failures] == ["strict"]
    assert "10000" in results.failures[0].reason
    assert [outcome.arm for outcome in results.outcomes] == ["loop"]
    assert "strict, seed 1" in (runs / "studies/tiny/report.html").read_text()


@pytest.mark.usefixtures("prefect_session")
def test_study_refuses_results_of_another_config(runs: Path, write_study: Callable[..., StudyConfig]) -> None:
    run(write_study(arms={"loop": {}}, rounds=1))
    changed = write_study(arms={"loop": {"change": {"training": {"beta": 0.7}}}}, rounds=1)
    with pytest.raises(ValueError, match=r"arm loop: its campaign tiny.loop.seed-1 began .*training.beta: 0.1 -> 0.7"):
        study(changed)
