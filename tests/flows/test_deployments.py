"""The small flows of the Prefect page, run as they are deployed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.artifacts import read_json
from components.config import CampaignConfig
from components.config.shipped import conf_path

pytestmark = pytest.mark.usefixtures("prefect_session")
Make = Callable[..., CampaignConfig]


def test_report_and_gc_work_on_a_campaign_and_free_what_a_dry_run_names(runs: Path, make_config: Make) -> None:
    from flows.deployments import gc, report
    from flows.iterative_dpo import iterative_dpo

    # A gate that nothing passes: no round is a champion, so the first one's weights are nobody's after the second.
    iterative_dpo(make_config(num_rounds=2, gate={"max_length_ratio": 1e-6}))
    written = runs / "small" / "report.html"
    written.unlink()
    assert report("small") == str(written)
    assert written.stat().st_size > 1000
    weights = runs / "small" / "round-001" / "dpo_train" / "model"
    named = gc(keep=1, dry_run=True)
    assert named > 0
    assert weights.is_dir()
    assert gc(campaign="small", keep=1) >= named
    assert not weights.exists()
    assert read_json(runs / "small" / "round-001" / "collected.json")["what"] == "model"
    assert gc(keep=1) == 0


def test_report_and_gc_of_an_unknown_campaign_fail_with_one_line(runs: Path) -> None:
    from flows.deployments import gc, report

    for state in (report("nothing", return_state=True), gc(campaign="nothing", return_state=True)):
        assert state.is_failed()
        assert "campaign nothing does not exist in" in state.message
        assert "\n" not in state.message


def run_deployed(flow: Any, **parameters: Any) -> Any:
    """Return the final state of a flow run that comes from a deployment."""
    from prefect.client.orchestration import get_client
    from prefect.flow_engine import run_flow

    with get_client(sync_client=True) as client:
        deployment = client.create_deployment(client.create_flow(flow), name="deployed")
        run = client.create_flow_run_from_deployment(deployment, parameters=parameters)
    return run_flow(flow, flow_run=run, parameters=parameters, return_type="state")


@pytest.mark.parametrize("name", ["campaign", "report", "gc"])
@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (
            {},
            "RATCHET_RUNS is not set, so the worker would delete what this run writes: run `ratchet deploy` again",
        ),
        (
            {"RATCHET_RUNS": "runs"},
            "RATCHET_RUNS = runs is a relative path, so the worker would delete what this run writes",
        ),
        (
            {"RATCHET_RUNS": "/no/such/disk"},
            "RATCHET_RUNS = /no/such/disk does not exist on this machine: mount its disk",
        ),
        (
            {"RATCHET_RUNS": "/", "RATCHET_WORKER_RUNS": "/tmp"},
            "this deployment writes to /, but its worker was started for /tmp",
        ),
        (
            {"RATCHET_RUNS": "/", "RATCHET_RUNS_ID": "0123456789abcdef"},
            "is not the directory that was deployed, which has the line 0123456789abcdef in .id: mount the shared",
        ),
        (
            {"RATCHET_RUNS": "/", "MLFLOW_TRACKING_URI": "sqlite:///rounds.db"},
            "MLFLOW_TRACKING_URI = sqlite:///rounds.db is relative",
        ),
    ],
)
def test_deployed_run_whose_files_would_vanish_is_refused_and_writes_nothing(
    name: str, environment: dict[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import deployments

    monkeypatch.chdir(tmp_path)
    for variable in ("RATCHET_RUNS", "RATCHET_RUNS_ID", "RATCHET_WORKER_RUNS", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    state = run_deployed(getattr(deployments, name))
    assert state.is_failed()
    assert message in state.message, state.message
    assert "\n" not in state.message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "store", ["", "sqlite:////srv/rounds.db", "file:///srv/mlruns", "http://mlflow:5000", "databricks"]
)
def test_deployed_run_that_lasts_is_let_through(store: str, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.deployments import report
    from flows.prefect_page.deployed import ensure_runs_id

    monkeypatch.setenv("RATCHET_RUNS_ID", ensure_runs_id(runs))
    assert ensure_runs_id(runs) == (runs / ".id").read_text()
    monkeypatch.setenv("RATCHET_WORKER_RUNS", f"{runs}/../runs")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    assert "campaign nothing does not exist in" in run_deployed(report, campaign="nothing").message


def test_deploy_writes_where_its_runs_write_and_work(runs: Path) -> None:
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    from flows.prefect_page.deploy import deploy
    from flows.servers.key import PrefectApi

    names = deploy(PrefectApi(PREFECT_API_URL.value()), conf_path("prefect.yaml"), runs).names
    assert len(names) == 4
    assert runs.is_dir()
    with get_client(sync_client=True) as client:
        for name in names:
            variables = client.read_deployment_by_name(name).job_variables
            assert variables["env"]["RATCHET_RUNS"] == variables["working_dir"] == str(runs)
