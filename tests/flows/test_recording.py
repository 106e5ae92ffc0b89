"""What MLflow and the Prefect page get of a campaign, and how a person learns that they lack something."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from rich.console import Console
from typer.testing import CliRunner

from components.artifacts import read_json, read_table
from components.builtin.world import train_prompts
from components.campaign.state import known_state
from components.config import CampaignConfig
from components.records import StageFailed
from flows.cli import app
from tests.flows.test_chat_judge import by_the_rule
from tests.judges.chat_server import ChatServer

pytestmark = pytest.mark.usefixtures("prefect_session")
Make = Callable[..., CampaignConfig]


def start(config: CampaignConfig, **options: Any) -> Any:
    from flows.iterative_dpo import iterative_dpo

    return iterative_dpo(config, **options)


@pytest.fixture
def forbidding() -> Iterator[str]:
    """Address of a server that answers every request with 403."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_error(403)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def task_states(name: str) -> list[tuple[str, str]]:
    """Name and message of the states of all runs of a task on the Prefect page, newest first."""
    with get_client(sync_client=True) as client:
        runs = client.read_task_runs(limit=200)
    named = [run.state for run in runs if run.name.startswith(name) and run.state is not None]
    return [(state.name or "", state.message or "") for state in named]


def test_round_that_mlflow_forbids_is_told_everywhere_and_recorded_later_as_it_ran(
    runs: Path, make_config: Make, forbidding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    from flows.terminal.rounds import StageProgress, print_places

    screen = Console(file=StringIO(), width=1000)
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", forbidding)
        patch.setattr("flows.dpo_round.git_sha", lambda: "1" * 40)
        with StageProgress(screen, runs / "small"):
            start(make_config())
        print_places(screen, runs / "small")
        said = CliRunner().invoke(app, ["status", "small"]).output
    line = f"1 round is not recorded in MLflow: MLflow at {forbidding} cannot record this, now or later: "
    printed = screen.file.getvalue()  # type: ignore[attr-defined]
    assert printed.count(line) == 1
    assert f"experiment small in {forbidding}; it lacks rounds 1: `ratchet status small` says why" in printed
    assert line in said.replace("\n", " ")
    assert line in (runs / "small" / "campaign.log").read_text()
    assert any(name == "NotRecorded" and message.startswith(line) for name, message in task_states("record_round"))
    assert known_state("small").rounds[0].mlflow_run_id is None

    monkeypatch.setattr("flows.dpo_round.git_sha", lambda: "2" * 40)
    training = make_config().training.model_dump() | {"learning_rate": 2e-4}
    start(make_config(training=training, tracking={"texts": False}), accept_changes=True)
    assert not (runs / "small" / "not-recorded.json").exists()
    assert "not recorded" not in CliRunner().invoke(app, ["status", "small"]).output
    client = MlflowClient(f"sqlite:///{runs / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("small")
    assert experiment.tags["campaign_id"] == known_state("small").id
    recorded = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    for name, rate, commit in (("round 001", "0.0003", "1" * 40), ("round 002", "0.0002", "2" * 40)):
        assert recorded[name].data.params["training.learning_rate"] == rate
        assert recorded[name].data.tags["git_sha"] == commit
        assert recorded[name].data.tags["mlflow.source.git.commit"] == commit
        files = {each.path for each in client.list_artifacts(recorded[name].info.run_id)}
        assert "samples.json" not in files, "the late record keeps to what holds now"

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{runs / 'mlflow.db'}")
    monkeypatch.setenv("RATCHET_RUNS", str(tmp_path / "of-another" / "runs"))
    with pytest.raises(ValueError, match="experiment small in MLflow belongs to another campaign"):
        start(make_config())
    assert not (tmp_path / "of-another" / "runs" / "small" / "round-001").exists()


def everything_in_mlflow(runs: Path) -> str:
    """All bytes of the store but the weights."""
    paths = [runs / "mlflow.db", *(path for path in (runs / "mlartifacts").rglob("*") if path.is_file())]
    return "\n".join(path.read_bytes().decode(errors="replace") for path in paths if path.suffix != ".safetensors")


def everything_in_prefect() -> str:
    """All that the API gives of flows, tasks, logs, artifacts and events."""
    content = []
    with get_client(sync_client=True) as client:
        for kind in ("flow_runs", "task_runs", "logs", "artifacts", "artifacts/latest", "events"):
            for offset in range(0, 10_000, 200):
                query = {"limit": 200, "offset": offset} if kind != "events" else {"limit": 50}
                answer = client._client.post(f"/{kind}/filter", json=query)
                answer.raise_for_status()
                content.append(answer.text)
                if kind == "events" or len(answer.json()) < 200:
                    break
    return "\n".join(content)


def texts_of(campaign: Path) -> set[str]:
    """Beginnings of prompts and responses in which JSON and markdown escape nothing."""
    found: set[str] = set()
    for table in campaign.rglob("*.parquet"):
        rows = read_table(table)
        for column in {"text", "prompt", "chosen", "rejected", "challenger", "champion"} & set(rows.columns):
            found |= {text[:40] for text in rows[column] if isinstance(text, str) and text.count(" ") > 5}
    return {text for text in found if text.replace(" ", "").replace("'", "").isalnum()}


@pytest.mark.parametrize("texts", [True, False])
def test_texts_reach_mlflow_and_prefect_only_if_they_may(
    texts: bool,
    runs: Path,
    make_config: Make,
    chat_server: Callable[..., ChatServer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from components.evaluation import stage

    word = f"quetzalcoatl-{str(texts).lower()}"
    rows = [{"prompt": f"{messages[-1]['content']} {word}"} for messages in train_prompts()[:96]]
    (tmp_path / "prompts.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    def reasons(request: dict[str, Any]) -> str:
        return json.dumps(json.loads(by_the_rule(request)) | {"reason": f"it speaks of {word}"})

    judge = {"kind": "llm", "endpoint": chat_server(reasons).endpoint(), "comparisons": 1}
    name = f"texts-{str(texts).lower()}"
    prompts = {"train": str(tmp_path / "prompts.jsonl"), "held_out": "", "per_round": 16, "num_held_out": 24}
    config = make_config(
        campaign=name, judge=judge, evaluation_judge={"kind": "rule"}, prompts=prompts, tracking={"texts": texts}
    )
    before = everything_in_prefect()
    with monkeypatch.context() as patch:
        patch.setattr(stage, "run", lambda request, out: (_ for _ in ()).throw(OSError(f"cannot judge '{word}'")))
        with pytest.raises(StageFailed) as failed:
            start(config)
    assert (word in str(failed.value)) is texts
    assert f"cannot judge '{word}'" in (runs / name / "campaign.log").read_text()
    start(config)
    mlflow, prefect = everything_in_mlflow(runs), everything_in_prefect()
    # Other tests of this session use the same Prefect server, and models like this one.
    responses = {text for text in texts_of(runs / name) if text not in before}
    assert len(responses) > 3
    assert name in prefect
    assert "win_rate_vs_start" in mlflow
    shown = {
        "prompts and reasons in MLflow": word in mlflow,
        "responses in MLflow": any(text in mlflow for text in responses),
        "prompts and reasons in Prefect": word in prefect,
        "responses in Prefect": any(text in prefect for text in responses),
    }
    assert shown == dict.fromkeys(shown, texts)
    assert read_json(runs / name / "config.json")["tracking"] == {"texts": texts}
