import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from components.artifacts import digest, read_json, write_json
from components.campaign import lock
from components.campaign.config import config_of_round, pin_config, refuse_changes
from components.campaign.lock import Busy, CampaignBusy, locked, writing
from components.campaign.models import COLLECTED, CollectedWeights, model_of_round
from components.campaign.state import (
    Champion,
    Rollback,
    State,
    finish_round,
    known_state,
    note_mlflow_run,
    open_target,
    read_state,
    write_state,
)
from components.config import CampaignConfig
from components.records import Interval, NewerVersion, RoundRecord

RATE = Interval(value=0.6, low=0.55, high=0.65, n=256)


def record(round: int, *, promoted: bool = True, **changes: Any) -> RoundRecord:
    values: dict[str, Any] = {
        "round": round,
        "promoted": promoted,
        "reasons": ("because",),
        "num_pairs": 10,
        "win_rate_vs_champion": RATE,
        "win_rate_vs_start": RATE,
        "kl_to_start": 1.0,
        "mean_tokens": 9.0,
        "mean_reward": 1.0,
        "seconds": {"evaluate": 1.0},
        "policy_digest": f"digest-{round}",
        "reference_digest": "digest-0",
    }
    return RoundRecord(**(values | changes))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = tmp_path / "camp"
    directory.mkdir()
    write_state(directory, State(campaign="camp", champion=Champion(round=0, digest="digest-0"), target=2))
    return directory


def state_of(directory: Path) -> State:
    state = read_state(directory)
    assert state is not None
    return state


def test_finish_round_promoted_moves_the_champion_refused_does_not(directory: Path) -> None:
    assert finish_round(directory, record(1)).champion == Champion(round=1, digest="digest-1")
    state = finish_round(directory, record(2, promoted=False))
    assert state.champion.round == 1
    assert state.last_round == 2


def test_note_mlflow_run_of_an_old_round_adds_no_round(directory: Path) -> None:
    finish_round(directory, record(1))
    finish_round(directory, record(2, promoted=False))
    note_mlflow_run(directory, 1, "abc")
    state = state_of(directory)
    assert [known.round for known in state.rounds] == [1, 2]
    assert state.rounds[0].mlflow_run_id == "abc"
    assert state.champion.round == 1


def test_finish_round_earlier_round_again_never_takes_the_crown_back(directory: Path) -> None:
    finish_round(directory, record(1))
    finish_round(directory, record(2))
    assert finish_round(directory, record(1, mlflow_run_id="abc")).champion.round == 2


def rolled_back(directory: Path, former: int, to: int) -> State:
    """Put a champion back, as the command does."""
    state = state_of(directory)
    rollback = Rollback(former=former, to=to, at="2026-01-01T00:00:00+00:00", after_round=state.last_round)
    state = state.model_copy(
        update={"rollbacks": (*state.rollbacks, rollback), "champion": Champion(round=to, digest=f"digest-{to}")}
    )
    write_state(directory, state)
    return state


def test_rollback_is_not_undone_when_mlflow_names_its_run_of_the_old_champion(directory: Path) -> None:
    for round in (1, 2):
        finish_round(directory, record(round))
    rolled_back(directory, 2, 1)
    note_mlflow_run(directory, 2, "late")
    assert state_of(directory).champion.round == 1
    assert finish_round(directory, record(2)).champion.round == 1
    assert finish_round(directory, record(3, promoted=False)).champion.round == 1
    assert finish_round(directory, record(4)).champion.round == 4


def test_read_state_rollbacks_are_kept_under_their_names_and_older_files_have_none(directory: Path) -> None:
    finish_round(directory, record(1))
    state = rolled_back(directory, 1, 0)
    written = json.loads((directory / "campaign.json").read_text())
    assert written["rollbacks"] == [{"from": 1, "to": 0, "at": "2026-01-01T00:00:00+00:00", "after_round": 1}]
    assert state_of(directory) == state
    del written["rollbacks"], written["sha256"]
    write_json(directory / "campaign.json", written)
    assert state_of(directory).rollbacks == ()


def test_champion_before_follows_promotions_and_rollbacks_in_their_order(directory: Path) -> None:
    for round, promoted in ((1, True), (2, True), (3, False)):
        finish_round(directory, record(round, promoted=promoted))
    rolled_back(directory, 2, 0)
    rolled_back(directory, 0, 1)
    finish_round(directory, record(4, promoted=False))
    state = finish_round(directory, record(5))
    assert [state.champion_before(round) for round in range(1, 7)] == [0, 1, 2, 1, 1, 5]


@pytest.mark.parametrize(("target", "expected"), [(2, 2), (None, 4)])
def test_open_target_open_start_goes_on_and_a_closed_one_adds_rounds(
    target: int | None, expected: int, directory: Path
) -> None:
    finish_round(directory, record(1))
    state = read_state(directory)
    assert state is not None
    assert open_target(state.model_copy(update={"target": target}), num_rounds=3) == expected


def test_read_state_damaged_file_says_what_to_do(directory: Path) -> None:
    (directory / "campaign.json").write_text('{"campaign": 1}')
    with pytest.raises(ValueError, match=r"campaign\.json is damaged.*restore it"):
        read_state(directory)


def test_read_state_no_wrong_bit_goes_unseen(directory: Path) -> None:
    """One in a digit gives another number, and JSON that is as good as before."""
    path = directory / "campaign.json"
    state = finish_round(directory, record(1))
    intact = path.read_bytes()
    for place in range(0, len(intact), 7):
        path.write_bytes(intact[:place] + bytes([intact[place] ^ 1]) + intact[place + 1 :])
        with pytest.raises(ValueError, match=r"campaign\.json"):
            read_state(directory)
    path.write_bytes(intact)
    assert state_of(directory) == state


@pytest.mark.parametrize(
    ("change", "sign"),
    [({"format": 2}, "its format is 2"), ({"owner": "ann"}, "does not know owner")],
    ids=["format", "field"],
)
def test_read_state_of_a_newer_version_is_not_called_damaged(
    change: dict[str, object], sign: str, directory: Path
) -> None:
    """The advice to move a damaged campaign away would cost a colleague's campaign."""
    finish_round(directory, record(1))
    path = directory / "campaign.json"
    content = read_json(path) | change
    del content["sha256"]
    path.write_text(json.dumps(content))
    with pytest.raises(NewerVersion) as refused:
        read_state(directory)
    assert sign in str(refused.value)
    assert "damaged" not in str(refused.value)


def test_known_state_unknown_campaign_names_the_known_ones(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATCHET_RUNS", str(directory.parent))
    with pytest.raises(ValueError, match=r"campaign camq does not exist in .*: choose one of camp"):
        known_state("camq")


def test_pin_config_what_users_are_promised_holds_from_the_next_start(tmp_path: Path) -> None:
    def config(**feedback: Any) -> CampaignConfig:
        return CampaignConfig.model_validate({"campaign": "camp", "preferences": {"feedback": feedback}})

    def pinned() -> Any:
        return read_json(tmp_path / "config.json")["preferences"].get("feedback")

    pin_config(tmp_path, config(use="only"), accept_changes=False)
    pin_config(tmp_path, config(use="only", retention_days=7, consent="We keep it."), accept_changes=False)
    assert (pinned()["retention_days"], pinned()["consent"], pinned()["use"]) == (7, "We keep it.", "only")
    with pytest.raises(ValueError, match=r"preferences\.feedback\.min_rows"):
        pin_config(tmp_path, config(use="only", retention_days=7, min_rows=3), accept_changes=False)
    earlier = read_json(tmp_path / "config.json")
    del earlier["preferences"]["feedback"]
    write_json(tmp_path / "config.json", earlier)
    pin_config(tmp_path, CampaignConfig(campaign="camp"), accept_changes=False)
    assert pinned() is None, "a campaign of an earlier version stays as it is"
    pin_config(tmp_path, config(retention_days=3), accept_changes=False)
    assert pinned()["retention_days"] == 3


def test_pin_config_changed_config_is_refused_with_the_way_on(tmp_path: Path) -> None:
    pin_config(tmp_path, CampaignConfig(campaign="camp"), accept_changes=False)
    pin_config(tmp_path, CampaignConfig(campaign="camp", num_rounds=9), accept_changes=False)
    elsewhere = {"launcher": {"kind": "slurm"}, "generation": {"nodes": 2}, "evaluation": {"nodes": 2}}
    pin_config(tmp_path, CampaignConfig.model_validate({"campaign": "camp"} | elsewhere), accept_changes=False)
    before = (tmp_path / "config.json").read_text()
    with pytest.raises(ValueError, match=r"seed: 17 -> 18.*--accept-changes"):
        pin_config(tmp_path, CampaignConfig(campaign="camp", seed=18), accept_changes=False)
    assert (tmp_path / "config.json").read_text() == before
    pin_config(tmp_path, CampaignConfig(campaign="camp", seed=18), accept_changes=True)
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 18


def asked_at(jury: bool, **endpoint: Any) -> CampaignConfig:
    llm = {"kind": "llm", "endpoint": {"url": "http://one/v1", "model": "m", **endpoint}}
    judge = {"kind": "jury", "jurors": [{"kind": "rule"}, llm]} if jury else llm
    return CampaignConfig.model_validate({"campaign": "camp", "judge": judge})


@pytest.mark.parametrize("jury", [False, True])
def test_pin_config_where_and_how_fast_a_judge_is_asked_may_change_and_which_one_may_not(
    jury: bool, tmp_path: Path
) -> None:
    first, moved = (
        asked_at(jury),
        asked_at(jury, url="http://two/v1", max_calls=9, concurrency=1, api_key_from="env:KEY"),
    )
    pin_config(tmp_path, first, accept_changes=False)
    pin_config(tmp_path, moved, accept_changes=False)
    assert digest(first.judge) == digest(moved.judge)
    for other in (asked_at(jury, model="n"), asked_at(jury, max_tokens=9), asked_at(jury, output="text")):
        assert digest(first.judge) != digest(other.judge)
        with pytest.raises(ValueError, match="--accept-changes"):
            pin_config(tmp_path, other, accept_changes=False)


def test_config_of_round_is_the_one_it_ran_under_after_changes_were_accepted(directory: Path) -> None:
    def change(seed: int) -> None:
        pin_config(directory, CampaignConfig(campaign="camp", seed=seed), accept_changes=True)

    change(1)
    change(2)  # before any round: nothing ran under seed 1
    finish_round(directory, record(1))
    finish_round(directory, record(2))
    change(3)
    change(4)  # nothing ran under seed 3
    finish_round(directory, record(3))
    change(5)
    assert [config_of_round(directory, round)["seed"] for round in (1, 2, 3, 4)] == [2, 2, 4, 5]


def test_locked_second_holder_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    with locked(tmp_path, flow_run="run-1"):
        code = f"""
from pathlib import Path
from components.campaign.lock import CampaignBusy, locked
try:
    with locked(Path({str(tmp_path)!r})): print("got it")
except CampaignBusy as busy: print(busy)
"""
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert "flow_run run-1" in told
        assert "got it" not in told
    with locked(tmp_path):
        pass


def test_lock_names_host_and_process_of_the_holder(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(CampaignBusy) as busy, locked(tmp_path):
        pass
    assert f"already running (pid {os.getpid()}, host {socket.gethostname()}, since 2" in str(busy.value)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK], ids=errno.errorcode.get)
def test_lock_on_a_file_system_without_locks_is_one_line_with_the_remedy(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(file: object, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(lock.fcntl, "flock", no_locks)
    with pytest.raises(ValueError, match=r"\.lock cannot be locked \(.*\): mount its file system with flock"):
        locked(tmp_path).__enter__()


def test_writing_is_refused_to_a_second_writer_by_name_and_leaves_the_directory_alone(tmp_path: Path) -> None:
    with writing(tmp_path / "out", command="ratchet collect"):
        with pytest.raises(Busy, match=r"/out is being written by another process \(pid .*, command ratchet collect\)"):
            writing(tmp_path / "out").__enter__()
        with writing(tmp_path / "other"):
            pass
        assert not (tmp_path / "out").exists()
    with writing(tmp_path / "out"):
        pass


def test_locked_error_within_the_block_lets_go(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), locked(tmp_path):
        raise RuntimeError
    with locked(tmp_path), pytest.raises(CampaignBusy), locked(tmp_path):
        pass


def test_model_of_round_adapter_stands_on_the_start_model(tmp_path: Path) -> None:
    start, stage = tmp_path / "round-000" / "start", tmp_path / "round-002" / "dpo_train"
    start.mkdir(parents=True)
    stage.mkdir(parents=True)
    write_json(start / "start.json", {"model": {"round": 0, "base": "model", "base_digest": "b", "digest": "b"}})
    assert model_of_round(tmp_path, 0).base == str(start / "model")
    write_json(stage / "train.json", {"policy_digest": "d", "directory": "adapter"})
    for weights in ("adapter", "model"):
        (stage / weights).mkdir()
    adapter = model_of_round(tmp_path, 2)
    assert (adapter.base, adapter.adapter, adapter.digest, adapter.base_digest) == (
        str(start / "model"),
        stage / "adapter",
        "d",
        "b",
    )
    write_json(stage / "train.json", {"policy_digest": "d", "directory": "model"})
    full = model_of_round(tmp_path, 2)
    assert (full.base, full.adapter, full.digest) == (str(stage / "model"), None, "d")


def test_refuse_changes_of_a_config_that_lacks_newer_knobs_sees_none(tmp_path: Path) -> None:
    """A campaign that an earlier version began goes on, as long as the new knobs are at their defaults."""
    config = CampaignConfig(campaign="old")
    written = config.model_dump(mode="json")
    del written["soft_prompt"], written["training"]["offload"]
    write_json(tmp_path / "config.json", written)
    refuse_changes(tmp_path, config)
    with pytest.raises(ValueError, match=r'soft_prompt\.kind: "none" -> "prefix"'):
        refuse_changes(tmp_path, CampaignConfig.model_validate({"campaign": "old", "soft_prompt": {"kind": "prefix"}}))


def test_model_of_round_without_weights_says_whether_they_were_collected_or_are_gone(tmp_path: Path) -> None:
    start, stage = tmp_path / "round-000" / "start", tmp_path / "round-002" / "dpo_train"
    start.mkdir(parents=True)
    stage.mkdir(parents=True)
    write_json(start / "start.json", {"model": {"round": 0, "base": "model", "base_digest": "b", "digest": "b"}})
    write_json(stage / "train.json", {"policy_digest": "d", "directory": "model"})
    with pytest.raises(ValueError, match=r"round 2 .* has no weights: .*/dpo_train/model does not exist; restore it"):
        model_of_round(tmp_path, 2)
    collected = CollectedWeights(what="model", digest="d", num_bytes=9, at="2026-01-01T00:00:00+00:00")
    write_json(tmp_path / "round-002" / COLLECTED, collected)
    with pytest.raises(ValueError, match=r"round 2 .* has no weights: `ratchet gc` removed them at 2026-01-01"):
        model_of_round(tmp_path, 2)
