"""Which version is called champion and challenger, round after round."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlflow.entities import Run

from components.tracking import Tracked


def test_aliases_over_three_rounds_champion_moves_only_when_promoted(
    store: Any, record: Callable[..., Tracked]
) -> None:
    client = store.client
    seen = []
    for number, promoted in ((1, True), (2, False), (3, True)):
        tracked = record(number, promoted=promoted)
        assert tracked.model_version == number
        seen.append(store.aliases())
    assert seen == [
        {"challenger": 1, "champion": 1},
        {"challenger": 2, "champion": 1},
        {"challenger": 3, "champion": 3},
    ]
    refused = client.get_model_version("demo", "2")
    assert refused.tags["promoted"] == "false"
    assert refused.tags["champion"] == "1"
    assert refused.tags["round"] == "2"
    assert "lower bound 0.41 is not above 0.5" in refused.description
    assert refused.run_id == store.runs()["round 002"].info.run_id


def test_aliases_nothing_promoted_yet_there_is_no_champion(store: Any, record: Callable[..., Tracked]) -> None:
    record(1, promoted=False)
    assert store.aliases() == {"challenger": 1}


def test_campaign_begun_again_under_its_name_is_not_mixed_with_the_old_one(
    runs: Path, store: Any, record: Callable[..., Tracked]
) -> None:
    old = [record(number) for number in (1, 2)]
    shutil.rmtree(runs / "demo")
    new = record(1, promoted=False, weights="others")
    client = store.client
    assert client.get_run(new.run_id).info.run_name == "round 001"
    assert new.run_id not in {tracked.run_id for tracked in old}
    assert client.get_run(old[0].run_id).info.run_name == "round 001 (superseded)"
    assert client.get_run(old[1].run_id).info.run_name == "round 002 (superseded)"
    campaigns = [run for name, run in campaign_runs(store).items() if name == "campaign"]
    assert store.curve(campaigns[0], "promoted") == [(1, 0.0)]
    assert store.aliases() == {"challenger": 3}, "the deleted campaign's champion is not this one's"
    record(2, weights="others")
    assert store.aliases() == {"challenger": 4, "champion": 4}


def campaign_runs(store: Any) -> dict[str, Run]:
    return {name: run for name, run in store.runs().items() if run.data.tags["kind"] == "campaign"}
