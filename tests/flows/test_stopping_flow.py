"""What ends a start early or repeats a stage, and how the next start continues."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components.campaign.lock import CampaignBusy, locked
from components.campaign.state import known_state
from components.config import CampaignConfig
from components.records import StageFailed
from components.runtime.launch import STAGES, Stage

Make = Callable[..., CampaignConfig]
FLAKY = """
from pathlib import Path
from components.preferences import stage
def run(request, out):
    log = Path({log!r})
    log.write_text((log.read_text() if log.exists() else "") + "x")
    if len(log.read_text()) <= {failures}: raise {error}("the line is down")
    stage.run(request, out)
"""


def start(config: CampaignConfig) -> Any:
    from flows.iterative_dpo import iterative_dpo

    return iterative_dpo(config, return_state=True)


@pytest.fixture
def flaky(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], Path]:
    """Make the first calls of collect_preferences fail; return the file that gets a letter per call."""
    from tasks.collect_preferences import collect_preferences

    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(collect_preferences, "retry_delay_seconds", [0.1, 0.1])

    def make(error: str, failures: int) -> Path:
        log, name = tmp_path / "calls.txt", f"flaky_{error.lower()}_{failures}"
        (tmp_path / f"{name}.py").write_text(FLAKY.format(log=str(log), error=error, failures=failures))
        monkeypatch.setitem(STAGES, "collect_preferences", Stage(name, STAGES["collect_preferences"].request, 1))
        return log

    return make


@pytest.mark.usefixtures("prefect_session")
def test_budget_used_up_stops_the_round_and_a_higher_one_finishes_it(runs: Path, make_config: Make) -> None:
    stopped = start(make_config(budget={"max_round_minutes": 1e-4}))
    assert stopped.name == "Stopped"
    assert "budget.max_round_minutes = 0.0001: raise it to continue" in stopped.message
    assert known_state("small").target == 1
    assert start(make_config(budget={"max_round_minutes": 1e-4})).name == "Stopped"
    assert not known_state("small").rounds
    assert start(make_config(budget={"max_round_minutes": 60})).is_completed()
    assert [record.round for record in known_state("small").rounds] == [1]


@pytest.mark.usefixtures("prefect_session")
def test_stop_file_keeps_a_start_from_beginning(runs: Path, make_config: Make) -> None:
    (runs / "small").mkdir(parents=True)
    (runs / "small" / "STOP").touch()
    state = start(make_config())
    assert state.name == "Stopped"
    assert "remove the file to continue" in state.message
    assert {path.name for path in (runs / "small").iterdir()} == {"STOP"}


@pytest.mark.usefixtures("prefect_session")
def test_stage_that_the_network_failed_is_tried_again_in_the_same_run(
    runs: Path, make_config: Make, flaky: Callable[[str, int], Path]
) -> None:
    calls = flaky("ConnectionError", 2)
    assert start(make_config()).is_completed()
    assert calls.read_text() == "xxx"


@pytest.mark.usefixtures("prefect_session")
def test_stage_that_fails_by_itself_is_not_tried_again(
    runs: Path, make_config: Make, flaky: Callable[[str, int], Path]
) -> None:
    calls = flaky("KeyError", 1)
    state = start(make_config())
    with pytest.raises(StageFailed, match="the line is down"):
        state.result()
    assert calls.read_text() == "x"


def test_scheduled_start_that_was_due_while_the_campaign_worked_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.prefect_page import earlier_starts

    def due(seconds: float, *tags: str) -> None:
        when = datetime.now(UTC) + timedelta(seconds=seconds)
        monkeypatch.setattr(earlier_starts, "flow_run", SimpleNamespace(tags=list(tags), scheduled_start_time=when))

    with locked(tmp_path, flow_run="first") as before:
        assert before == {}
    with locked(tmp_path, flow_run="second") as before:
        pass
    window = before | {
        "since": (datetime.now(UTC) - timedelta(hours=1)).isoformat(),
        "until": datetime.now(UTC).isoformat(),
    }
    for seconds, tags, skipped in (
        (-600, ["auto-scheduled"], True),
        (60, ["auto-scheduled"], False),
        (-7200, ["auto-scheduled"], False),
        (-600, [], False),
    ):
        due(seconds, *tags)
        if skipped:
            with pytest.raises(CampaignBusy, match="was already running, from"):
                earlier_starts.refuse_if_overtaken("camp", window)
        else:
            earlier_starts.refuse_if_overtaken("camp", window)


def test_lock_skipped_holder_leaves_the_window_of_the_one_before(tmp_path: Path) -> None:
    with locked(tmp_path, flow_run="worked"):
        pass
    with pytest.raises(CampaignBusy), locked(tmp_path, flow_run="skipped") as before:
        raise CampaignBusy("overtaken")
    with locked(tmp_path, flow_run="third") as again:
        assert again == before
    assert before["flow_run"] == "worked"
    assert {"since", "until"} <= before.keys()
