"""Two campaigns with one name in one MLflow: neither takes anything from the other."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from components.artifacts import read_json, write_json
from components.campaign.state import State, read_state
from components.config import TrackingConfig
from components.records import RoundRecord
from components.tracking import NameTaken, Tracked, announce_champion, collect_copies, record_round, refuse_taken_name

Campaign = Callable[..., Path]


@pytest.fixture
def campaign(
    build: Any, tmp_path: Path, server_port: int, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Campaign:
    """Make a person's campaign with some finished rounds; all of a test have one name, and use one server."""
    name = request.node.name[:60].replace("[", "-").replace("]", "")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server_port}")

    def make(person: str, *, rounds: int) -> Path:
        for number in range(1, rounds + 1):
            made, _ = build(number, weights=person)
        place = tmp_path / person / "runs" / name
        place.parent.mkdir(parents=True)
        return Path(shutil.move(made, place))

    return make


@pytest.fixture
def record_of(config: dict[str, Any]) -> Callable[[Path, int], Tracked]:
    """Record a round of a campaign."""

    def record(directory: Path, number: int) -> Tracked:
        entry = next(each for each in read_json(directory / "campaign.json")["rounds"] if each["round"] == number)
        return record_round(directory, RoundRecord.model_validate(entry), config=config, tracking=TrackingConfig())

    return record


def state_of(directory: Path) -> State:
    state = read_state(directory)
    assert state is not None
    return state


def seen(server_port: int, name: str) -> list[Any]:
    """Everything that a second campaign could take away from the first."""
    client = MlflowClient(f"http://127.0.0.1:{server_port}")
    experiment, model = client.get_experiment_by_name(name), client.get_registered_model(name)
    runs = client.search_runs([experiment.experiment_id])
    return [
        model.aliases,
        sorted((run.info.run_id, run.info.run_name, sorted(run.data.tags.items())) for run in runs),
        sorted(experiment.tags.items()),
        sorted(model.tags.items()),
        sorted((each.version, sorted(each.tags.items())) for each in client.search_model_versions(f"name = '{name}'")),
    ]


def test_second_persons_campaign_of_the_same_name_is_refused_and_takes_no_alias(
    campaign: Campaign, record_of: Callable[[Path, int], Tracked], server_port: int
) -> None:
    alice = campaign("alice", rounds=2)
    for number in (1, 2):
        record_of(alice, number)
    before = seen(server_port, alice.name)
    assert before[0] == {"champion": "2", "challenger": "2"}
    bob = campaign("bob", rounds=1)
    took = f"experiment {alice.name} in MLflow belongs to another campaign \\({state_of(alice).id}, .*@.*:{alice}\\)"
    for attempt in (
        lambda: record_of(bob, 1),
        lambda: announce_champion(bob),
        lambda: refuse_taken_name(bob),
        lambda: collect_copies(bob, state_of(bob).rounds, dry_run=False),
    ):
        with pytest.raises(NameTaken, match=f"{took}: choose another campaign name"):
            attempt()
    assert seen(server_port, alice.name) == before
    assert record_of(alice, 2).model_version == 2


def test_campaign_that_began_anew_on_another_disk_is_refused(
    campaign: Campaign, record_of: Callable[[Path, int], Tracked], server_port: int
) -> None:
    first = campaign("alice", rounds=1)
    record_of(first, 1)
    before = seen(server_port, first.name)
    first.rename(first.with_name("on-the-disk-that-is-away"))
    anew = campaign("bob", rounds=1)
    shutil.move(anew, first)
    with pytest.raises(NameTaken, match="choose another campaign name"):
        record_of(first, 1)
    assert seen(server_port, first.name) == before


def test_campaign_of_an_earlier_version_is_adopted_by_its_own_rounds_only(
    campaign: Campaign, record_of: Callable[[Path, int], Tracked], server_port: int
) -> None:
    alice = campaign("alice", rounds=2)
    state = state_of(alice)
    write_json(alice / "campaign.json", state.model_copy(update={"id": None}))
    record_of(alice, 1)
    assert not [tag for tag, _ in seen(server_port, alice.name)[2] if tag.startswith("campaign_")]
    bob = campaign("bob", rounds=1)
    with pytest.raises(NameTaken, match="an earlier version or another program made it"):
        record_of(bob, 1)
    write_json(alice / "campaign.json", state)
    record_of(alice, 2)
    _, _, experiment, model, _ = seen(server_port, alice.name)
    assert ("campaign_id", state.id) in experiment
    assert ("campaign_id", state.id) in model


def test_registered_model_of_another_program_is_left_alone(
    campaign: Campaign, record_of: Callable[[Path, int], Tracked], server_port: int
) -> None:
    alice = campaign("alice", rounds=1)
    client = MlflowClient(f"http://127.0.0.1:{server_port}")
    client.create_registered_model(alice.name)
    client.create_model_version(alice.name, source="s3://bucket/model")
    client.set_registered_model_alias(alice.name, "champion", "1")
    with pytest.raises(NameTaken, match=f"registered model {alice.name} in MLflow belongs to another campaign"):
        record_of(alice, 1)
    assert client.get_registered_model(alice.name).aliases == {"champion": "1"}
