import os
import shutil
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from components.artifacts import read_json, write_json
from components.campaign.lock import CampaignBusy, locked
from components.campaign.models import model_of_round
from components.history.cleanup import Collected, collect_garbage
from flows.cli import app

# MLflow 3.17 uses what SQLAlchemy 2.1 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


class Killed(BaseException):
    """Ends the process for the test."""


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["gc", *arguments])


def with_weights(campaign: Any) -> set[int]:
    return {
        round
        for round in range(1, campaign.state.last_round + 1)
        if (campaign.stage(round, "dpo_train") / "model").is_dir()
    }


def files(directory: Path) -> set[str]:
    return {
        str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file() and path.name != ".lock"
    }


def collected(found: list[Collected]) -> list[tuple[int | None, str]]:
    return [(item.round, item.what) for item in found]


@pytest.fixture
def six(demo: Any) -> Any:
    """Two more refused rounds: 1 and 3 of six were promoted."""
    for round in (5, 6):
        demo.round(round, promoted=False)
    return demo


def test_gc_keeps_champion_promoted_start_and_latest_and_removes_only_weights(six: Any) -> None:
    before = files(six.directory)
    weights = {f"round-002/dpo_train/model/{name}" for name in ("config.json", "model.safetensors")}
    found = collect_garbage(six.directory, keep=3, dry_run=False)
    assert collected(found) == [(2, "weights")]
    assert before - files(six.directory) == weights
    assert files(six.directory) - before == {"round-002/collected.json"}
    assert found[0].num_bytes == 4096 + 2
    note = read_json(six.directory / "round-002" / "collected.json")
    assert (note["what"], note["digest"], note["num_bytes"]) == ("model", six.policy_digest(2), 4098)
    assert note["at"].startswith("20")
    collect_garbage(six.directory, keep=1, dry_run=False)
    assert with_weights(six) == {1, 3, 6}


def test_gc_after_a_rollback_keeps_both_the_restored_and_the_former_champion(six: Any) -> None:
    from components.history.rollback import roll_back

    roll_back(six.directory, 1)
    collect_garbage(six.directory, keep=1, dry_run=False)
    assert with_weights(six) == {1, 3, 6}
    assert roll_back(six.directory, 3).champion.round == 3


def test_gc_removes_adapters_too(make_campaign: Any) -> None:
    campaign = make_campaign()
    campaign.round(1, promoted=False, weights="adapter")
    campaign.round(2, promoted=False, weights="adapter")
    collect_garbage(campaign.directory, keep=1, dry_run=False)
    assert not (campaign.stage(1, "dpo_train") / "adapter").exists()
    assert (campaign.stage(2, "dpo_train") / "adapter").exists()
    assert read_json(campaign.directory / "round-001" / "collected.json")["what"] == "adapter"


def with_masters(campaign: Any, round: int, content: bytes = b"m" * 100) -> Path:
    masters: Path = campaign.stage(round, "dpo_train") / "master"
    masters.mkdir()
    (masters / "master-00001.safetensors").write_bytes(content)
    return masters


def test_gc_keeps_the_masters_of_the_champion_only(six: Any) -> None:
    """Round 3 is the champion, round 1 was promoted, round 6 is the latest, round 2 loses its weights too."""
    masters = {round: with_masters(six, round) for round in (1, 2, 3, 6)}
    (masters[1].parent / ".master.old-7").mkdir()
    found = collect_garbage(six.directory, keep=1, dry_run=False)
    assert [round for round, path in masters.items() if path.exists()] == [3]
    assert [item.round for item in found if item.what == "masters"] == [1, 2, 6]
    assert all(item.num_bytes == 100 for item in found if item.what == "masters")
    assert with_weights(six) == {1, 3, 6}
    assert not list(six.directory.glob("**/.master.old-*"))
    assert collect_garbage(six.directory, keep=1, dry_run=False) == []


def test_gc_dry_run_says_the_same_and_changes_nothing(six: Any, runs: Path, store: Path) -> None:
    six.track(2)
    six.track(6)
    six.stage(4, ".dpo_train.tmp-99").mkdir()
    before = files(six.directory)
    promised = collect_garbage(six.directory, keep=1, dry_run=True)
    assert files(six.directory) == before
    assert six.stage(4, ".dpo_train.tmp-99").is_dir()
    assert collect_garbage(six.directory, keep=1, dry_run=False) == promised
    assert (2, "copy in MLflow") in collected(promised)


def test_gc_removes_leftovers_and_checkpoints_of_finished_rounds_but_not_of_the_open_one(six: Any) -> None:
    left = [
        six.stage(2, ".evaluate.old-17"),
        six.stage(7, ".dpo_train.tmp-17"),
        six.stage(2, "checkpoints"),
        six.stage(0, ".start.tmp-1"),
    ]
    needed = six.stage(7, "checkpoints")
    for directory in (*left, needed):
        directory.mkdir(parents=True)
        (directory / "x.safetensors").write_bytes(b"12345")
    write_json(six.directory / "campaign.json", six.state.model_copy(update={"target": 7}))
    found = collect_garbage(six.directory, keep=6, dry_run=False)
    assert sorted(collected(found)) == [(0, "leftover"), (2, "checkpoints"), (2, "leftover"), (7, "leftover")]
    assert {item.num_bytes for item in found} == {5}
    assert not any(directory.exists() for directory in left)
    assert needed.exists()


@pytest.mark.parametrize("dies_in", ["sync", "write_json", "shutil.rmtree"])
def test_gc_killed_at_any_step_leaves_no_half_model_and_the_next_one_finishes(
    six: Any, dies_in: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(f"components.history.cleanup.{dies_in}", die)
        with pytest.raises(Killed):
            collect_garbage(six.directory, keep=4, dry_run=False)
    weights = six.stage(2, "dpo_train") / "model"
    assert not weights.exists()
    with pytest.raises(ValueError, match=r"round 2 .* has no weights"):
        model_of_round(six.directory, 2)
    # Even where the next one would keep the round: what was renamed is no model any more.
    assert collected(collect_garbage(six.directory, keep=6, dry_run=False)) == [(2, "weights")]
    assert sorted(os.listdir(weights.parent)) == ["MANIFEST.json", "metrics.jsonl", "train.json"]
    assert read_json(six.directory / "round-002" / "collected.json")["num_bytes"] == 4098
    assert collect_garbage(six.directory, keep=6, dry_run=False) == []


def test_gc_removes_mlflows_copy_and_keeps_the_version_with_its_tags(six: Any, runs: Path, store: Path) -> None:
    from components.tracking import read_versions

    for round in range(1, 7):
        six.track(round)
    before = {entry.version: entry for entry in read_versions(runs, "demo")}
    found = collect_garbage(six.directory, keep=2, dry_run=False)
    assert collected(found) == [(2, "weights"), (4, "weights"), (2, "copy in MLflow"), (4, "copy in MLflow")]
    copies = {path.parent.parent.name for path in (runs / "mlartifacts").rglob("model.safetensors")}
    assert len(copies) == 4
    for entry in read_versions(runs, "demo"):
        gone = {"weights": "collected"} if entry.tags["round"] in ("2", "4") else {}
        assert entry.tags == before[entry.version].tags | gone
        assert entry.aliases == before[entry.version].aliases
    assert read_json(six.directory / "round-002" / "collected.json")["mlflow_bytes"] >= 4098
    assert collect_garbage(six.directory, keep=2, dry_run=False) == []


def test_gc_while_mlflow_is_down_frees_the_disk_and_the_copy_follows(
    six: Any, runs: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    six.track(2)
    six.track(6)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{unused.getsockname()[1]}")
        told = invoke("demo", "--keep", "4")
    assert told.exit_code == 0
    assert "the next gc removes the copies in MLflow" in told.stderr
    assert not (six.stage(2, "dpo_train") / "model").exists()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert collected(collect_garbage(six.directory, keep=4, dry_run=False)) == [(2, "copy in MLflow")]


def test_recording_a_collected_round_again_uploads_nothing_and_fails_on_nothing(
    six: Any, runs: Path, store: Path
) -> None:
    for round in (1, 2, 3, 6):
        six.track(round)
    collect_garbage(six.directory, keep=1, dry_run=False)
    six.track(2)  # recorded before
    six.track(4)  # MLflow had been away while its weights were there
    assert read_json(six.directory / "round-002" / "tracking.json")["model_version"] == 2
    assert read_json(six.directory / "round-004" / "tracking.json")["model_version"] is None
    assert len(list((runs / "mlartifacts").rglob("model.safetensors"))) == 3


def test_gc_removes_files_that_killed_writers_left_and_not_those_being_written(six: Any) -> None:
    """After a full disk `.report.html.PID.tmp` stayed for ever: gc looked at directories only."""
    old = time.time() - 7200
    names = (".report.html.host-1-ab.tmp", "round-002/.tracking.json.77.tmp", "round-003/judging/.spent.json.7.tmp")
    for name in names:
        path = six.directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("half")
        os.utime(path, (old, old))
    fresh = six.directory / ".report.html.host-2-cd.tmp"
    fresh.write_text("being written by `ratchet report`, which takes no lock")
    told = [(None, "leftover"), (2, "leftover"), (3, "leftover")]
    assert collected(collect_garbage(six.directory, keep=6, dry_run=True)) == told
    assert all((six.directory / name).exists() for name in names)
    assert collected(collect_garbage(six.directory, keep=6, dry_run=False)) == told
    assert not any((six.directory / name).exists() for name in names)
    assert fresh.exists()
    assert invoke("demo", "--keep", "6").exit_code == 0


def test_gc_of_a_busy_campaign_skips_it_by_name_and_goes_on(six: Any, make_campaign: Any) -> None:
    other = make_campaign("other")
    for round in (1, 2):
        other.round(round, promoted=False)
    with locked(six.directory, flow_run="run-7"):
        with pytest.raises(CampaignBusy):
            collect_garbage(six.directory, keep=1, dry_run=False)
        told = invoke("--keep", "1")
    assert told.exit_code == 0
    assert "skipped: campaign demo is already running (pid" in told.stderr
    assert with_weights(six) == {1, 2, 3, 4, 5, 6}
    assert with_weights(other) == {2}
    assert "4.1 kB freed" in told.output


def test_gc_table_names_what_went_and_keeps_two_rounds_by_default(six: Any) -> None:
    told = invoke("demo", "--dry-run")
    assert [line.split() for line in told.output.splitlines()] == [
        ["campaign", "round", "what", "size"],
        ["demo", "2", "weights", "4.1", "kB"],
        ["demo", "4", "weights", "4.1", "kB"],
        ["8.2", "kB", "would", "be", "freed"],
    ]
    assert invoke("demo").exit_code == 0
    assert with_weights(six) == {1, 3, 5, 6}


@pytest.mark.parametrize("arguments", [("nope",), ("demo", "--keep", "0")])
def test_gc_of_an_unknown_campaign_or_keeping_nothing_is_refused(demo: Any, arguments: tuple[str, ...]) -> None:
    assert invoke(*arguments).exit_code == 2
    assert with_weights(demo) == {1, 2, 3, 4}


def test_gc_of_restored_weights_collects_them_again(six: Any, tmp_path: Path) -> None:
    weights = six.stage(2, "dpo_train") / "model"
    shutil.copytree(weights, tmp_path / "backup")
    collect_garbage(six.directory, keep=4, dry_run=False)
    shutil.copytree(tmp_path / "backup", weights)
    assert model_of_round(six.directory, 2).digest == six.policy_digest(2)
    assert collected(collect_garbage(six.directory, keep=4, dry_run=False)) == [(2, "weights")]
    assert not weights.exists()


def test_gc_leaves_mlflows_copy_of_a_version_that_somebody_gave_an_alias(six: Any, runs: Path, store: Path) -> None:
    from mlflow import MlflowClient

    six.track(2)
    client = MlflowClient(f"sqlite:///{store}")
    client.set_registered_model_alias("demo", "preview", "1")
    client.delete_registered_model_alias("demo", "challenger")
    assert collected(collect_garbage(six.directory, keep=4, dry_run=False)) == [(2, "weights")]
    assert len(list((runs / "mlartifacts").rglob("model.safetensors"))) == 1
    client.delete_registered_model_alias("demo", "preview")
    assert collected(collect_garbage(six.directory, keep=4, dry_run=False)) == [(2, "copy in MLflow")]


def test_gc_of_all_campaigns_goes_past_a_damaged_one_and_names_it(six: Any, runs: Path) -> None:
    (runs / "broken").mkdir()
    (runs / "broken" / "campaign.json").write_text("{")
    told = invoke("--keep", "1")
    assert told.exit_code == 2
    assert "broken/campaign.json is damaged" in told.stderr
    assert with_weights(six) == {1, 3, 6}
