import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from components.artifacts import digest, read_json, write_json
from components.campaign.files import read_campaign
from components.campaign.lock import locked
from components.campaign.models import model_of_round
from components.config import GenerationConfig, PolicyConfig
from components.history.rollback import roll_back
from components.records import Artifact, GenerateRequest
from components.report.campaign import write_report
from flows.cli import app

# MLflow 3.17 uses what SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["rollback", *arguments])


def aliases(runs: Path) -> dict[str, int]:
    from mlflow import MlflowClient

    model = MlflowClient(f"sqlite:///{runs / 'mlflow.db'}").get_registered_model("demo")
    return {alias: int(version) for alias, version in model.aliases.items()}


def campaign_run(runs: Path) -> Any:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{runs / 'mlflow.db'}")
    found = client.search_runs([client.get_experiment_by_name("demo").experiment_id], "tags.kind = 'campaign'")
    assert len(found) == 1
    return found[0]


def test_rollback_to_a_promoted_round_moves_the_champion_and_is_recorded(demo: Any) -> None:
    told = invoke("demo", "1")
    assert told.exit_code == 0, told.output
    assert "rolled back from round 3 to round 1 after round 4" in told.output
    written = read_json(demo.directory / "campaign.json")
    assert written["champion"] == {"round": 1, "digest": demo.policy_digest(1)}
    assert [{key: entry[key] for key in ("from", "to", "after_round")} for entry in written["rollbacks"]] == [
        {"from": 3, "to": 1, "after_round": 4}
    ]
    assert len(written["rounds"]) == 4


def test_rollback_forth_and_back_keeps_every_step(demo: Any) -> None:
    assert [invoke("demo", to).exit_code for to in ("1", "0", "3")] == [0, 0, 0]
    assert [(step.former, step.to) for step in demo.state.rollbacks] == [(3, 1), (1, 0), (0, 3)]
    assert demo.state.champion.digest == demo.policy_digest(3)


def test_rollback_next_round_starts_from_the_restored_champion(demo: Any) -> None:
    roll_back(demo.directory, 1)
    demo.round(5, promoted=False)
    assert read_json(demo.stage(5, "dpo_train") / "train.json")["start_digest"] == demo.policy_digest(1)
    assert demo.state.champion.round == 1
    campaign = read_campaign(demo.directory)
    assert [campaign.champion_before(round) for round in (3, 4, 5)] == [1, 3, 1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("demo", "2"), "round 2 of campaign demo was never promoted: choose one of 0, 1"),
        (("demo", "3"), "round 3 is already the champion of campaign demo: choose one of 0, 1"),
        (("demo", "9"), "campaign demo has no finished round 9: choose one of 0, 1"),
        (("nope", "1"), "campaign nope does not exist in"),
    ],
)
def test_rollback_to_what_cannot_be_champion_is_refused_in_one_line(
    demo: Any, arguments: tuple[str, ...], said: str
) -> None:
    before = (demo.directory / "campaign.json").read_text()
    told = invoke(*arguments)
    assert told.exit_code == 2
    assert said in told.stderr
    assert told.stderr.count("\n") == 1
    assert (demo.directory / "campaign.json").read_text() == before


def test_rollback_to_weights_that_are_gone_or_damaged_is_refused(demo: Any) -> None:
    weights = demo.stage(1, "dpo_train") / "model"
    content = bytearray((weights / "model.safetensors").read_bytes())
    content[7] ^= 1
    (weights / "model.safetensors").write_bytes(content)
    told = invoke("demo", "1")
    assert (told.exit_code, "model/model.safetensors no longer matches its recorded hash" in told.stderr) == (2, True)
    shutil.rmtree(weights)
    told = invoke("demo", "1")
    assert (told.exit_code, "dpo_train/model does not exist" in told.stderr) == (2, True)
    shutil.rmtree(demo.stage(0, "start") / "model")
    told = invoke("demo", "0")
    assert (told.exit_code, "weights of the start model are missing" in told.stderr) == (2, True)
    assert demo.state.champion.round == 3


def test_rollback_of_a_busy_campaign_names_the_holder_and_changes_nothing(demo: Any) -> None:
    with locked(demo.directory, flow_run="run-7"):
        told = invoke("demo", "1")
    assert told.exit_code == 2
    assert "flow_run run-7" in told.stderr
    assert demo.state.champion.round == 3


def test_rollback_while_a_round_is_open_says_so_and_its_stages_are_made_again(demo: Any) -> None:
    def key() -> str:
        """What the open round's first stage would be published under."""
        request = GenerateRequest(
            policy=model_of_round(demo.directory, demo.state.champion.round),
            limits=PolicyConfig(),
            prompts=Artifact(path=Path("p"), digest="d"),
            per_round=1,
            solved_rounds=0,
            solved_score=None,
            earlier=(),
            round=5,
            campaign_seed=1,
            generation=GenerationConfig(),
            seed=1,
        )
        return digest(request)

    write_json(demo.directory / "campaign.json", demo.state.model_copy(update={"target": 6}))
    before = key()
    told = invoke("demo", "1")
    assert told.exit_code == 0
    assert (
        "a start is open that goes to round 6: what round 5 has published from the former champion is made again"
        in told.output
    )
    assert demo.state.target == 6
    assert key() != before


def test_rollback_moves_mlflows_champion_and_tells_it_in_the_campaigns_run(demo: Any, runs: Path, store: Path) -> None:
    for round in (1, 2, 3, 4):
        demo.track(round)
    assert aliases(runs) == {"champion": 3, "challenger": 4}
    assert invoke("demo", "1").exit_code == 0
    assert aliases(runs) == {"champion": 1, "challenger": 4}
    tags = campaign_run(runs).data.tags
    assert tags["champion"] == "1"
    assert "rolled back from round 3 to round 1 after round 4" in tags["mlflow.note.content"]
    assert invoke("demo", "0").exit_code == 0
    assert aliases(runs) == {"challenger": 4}
    assert campaign_run(runs).data.tags["champion"] == "0"


def test_rollback_while_mlflow_is_down_moves_the_state_and_the_alias_follows_with_the_next_round(
    demo: Any, runs: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for round in (1, 3):
        demo.track(round)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{unused.getsockname()[1]}")
        told = invoke("demo", "1")
    assert told.exit_code == 0
    assert "the alias `champion` moves when the next round is recorded" in told.stderr
    assert demo.state.champion.round == 1
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    versions = aliases(runs)
    assert versions["champion"] == versions["challenger"]
    demo.round(5, promoted=False)
    demo.track(5)
    assert aliases(runs) == {"champion": 1, "challenger": 3}
    assert "rolled back from round 3 to round 1" in campaign_run(runs).data.tags["mlflow.note.content"]
    demo.track(3)
    assert demo.state.champion.round == 1
    assert aliases(runs)["champion"] == 1, "an old promoted round that is recorded again takes the crown back"


def test_tag_champion_of_a_round_is_who_it_was_then_whatever_was_rolled_back_later(
    demo: Any, runs: Path, store: Path
) -> None:
    from components.tracking import read_versions

    roll_back(demo.directory, 1)
    demo.round(5, promoted=False)
    for round in (1, 4, 5):
        demo.track(round)
    assert {entry.tags["round"]: entry.tags["champion"] for entry in read_versions(runs, "demo")} == {
        "1": "1",
        "4": "3",
        "5": "1",
    }


def test_rollback_is_shown_by_status_and_report(demo: Any) -> None:
    roll_back(demo.directory, 1)
    told = CliRunner().invoke(app, ["status", "demo"])
    assert "the champion is round 1 (*)" in told.output
    assert "rolled back from round 3 to round 1 after round 4" in told.output
    html = write_report(demo.directory).read_text()
    assert "The champion is round 1." in html
    assert "<p>Rolled back from round 3 to round 1 after round 4" in html
    roll_back(demo.directory, 0)
    html = write_report(demo.directory).read_text()
    assert "The start model is the champion again" in html
    assert "the gate refused 4 challengers" not in html
