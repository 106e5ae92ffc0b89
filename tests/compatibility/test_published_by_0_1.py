"""Campaigns that version 0.1 published are continued: no finished stage runs again, and every command reads them.

This test stays. A change that makes it fail breaks the campaigns of users. If that is wanted, say so under
"Re-runs stages" in the CHANGELOG, and only then change what is expected here. The fixture itself is never made again.

`campaign-0.1.tar.xz` was written by `make_campaign.py` with version 0.1 (commit eb52c30): two promoted rounds on the
built-in world.

- The start model, of 8,000 parameters, is in the fixture. It cannot be rebuilt: another processor may train other
  weights, and the key of every stage depends on the digest of the first ones. Nothing that is compared with the old
  campaign is computed again, so the processor does not matter. The third round is made on the present one, and it may
  be promoted or refused.
- It is a built-in start model, which a campaign names by a path relative to itself. So the campaign can be continued
  wherever it is unpacked.
- MLflow's store is not in the fixture, because it holds absolute paths and a schema that belongs to MLflow's version.
  Version 0.1 ran the rounds while MLflow was away, and so the present code records all of them from the old files.
"""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read when mlflow is imported

CHECKOUT = Path(__file__).parents[2]
ARCHIVE = Path(__file__).parent / "campaign-0.1.tar.xz"
STAGES = ("generate_responses", "collect_preferences", "validate_data", "dpo_train", "evaluate", "promote")
PUBLISHED = ["round-000/start", *(f"round-{round:03d}/{stage}" for round in (1, 2) for stage in STAGES)]


class Campaign:
    """The unpacked campaign, and its owner's command line."""

    def __init__(self, place: Path) -> None:
        self.place, self.runs = place, place / "runs"
        self.directory = self.runs / "small"
        with tarfile.open(ARCHIVE) as packed:
            packed.extractall(place, filter="data")

    def ratchet(self, *arguments: str) -> str:
        """Run a command that must succeed, and return what it printed."""
        environment = os.environ | {
            "RATCHET_RUNS": str(self.runs),
            "PREFECT_HOME": str(self.place / "prefect"),
            "XDG_CACHE_HOME": str(self.place / "cache"),
            "COLUMNS": "200",
        }
        environment.pop("PREFECT_API_URL", None)
        command = [sys.executable, "-m", "flows.cli", *arguments]
        done = subprocess.run(command, env=environment, cwd=CHECKOUT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"ratchet {' '.join(arguments)}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def run(self, *arguments: str) -> str:
        return self.ratchet("run", str(self.place / "campaign.yaml"), *arguments)

    def state(self) -> dict[str, Any]:
        return json.loads((self.directory / "campaign.json").read_text())

    def stages(self) -> dict[str, dict[str, tuple[int, bytes]]]:
        """Time and content of every file of every published stage: a stage that runs again writes a new manifest."""
        return {
            str(manifest.parent.relative_to(self.directory)): {
                str(path.relative_to(manifest.parent)): (path.stat().st_mtime_ns, path.read_bytes())
                for path in manifest.parent.rglob("*")
                if path.is_file()
            }
            for manifest in self.directory.glob("round-*/[!.]*/MANIFEST.json")
        }


LATER_MEASURES = ("distinct_2", "equal_samples")
"""Fields of a round's record that 0.1 did not measure."""
pytestmark = pytest.mark.timeout(900)  # half a minute where nothing else runs


@pytest.fixture
def campaign(tmp_path: Path) -> Campaign:
    return Campaign(tmp_path)


def test_campaign_of_0_1_gets_a_third_round_and_every_command_reads_it(campaign: Campaign) -> None:
    old, stages = campaign.state(), campaign.stages()
    assert sorted(stages) == sorted(PUBLISHED)
    assert_status_shows(campaign, old)
    campaign.run("--rounds", "1")
    state = campaign.state()
    assert_stages_are_untouched(campaign, stages)
    assert sorted(set(campaign.stages()) - set(stages)) == sorted(f"round-003/{stage}" for stage in STAGES)
    assert [record["round"] for record in state["rounds"]] == [1, 2, 3]
    assert without_mlflow(state["rounds"][:2]) == without_mlflow(old["rounds"])
    assert state["target"] is None
    trained = json.loads((campaign.directory / "round-003/dpo_train/train.json").read_text())
    assert trained["start_digest"] == old["champion"]["digest"] == old["rounds"][1]["policy_digest"]
    assert trained["ln2_checked"]
    first, second, third = (prompts_of_round(campaign, round) for round in (1, 2, 3))
    assert len(third) == 64
    assert not third & (first | second), "prompts were drawn again while the pool was not used up"
    assert_status_shows(campaign, state)
    assert_report_shows(campaign, state)
    assert_mlflow_has(campaign, state)
    assert_compare_reads(campaign, state)
    assert_lineage_reads(campaign, state)


def test_campaign_of_0_1_that_forgot_its_rounds_finds_every_stage_before_the_gate_done(campaign: Campaign) -> None:
    """Evaluations of 0.1 have no evidence for the gate, so evaluate and promote of rounds that it forgot run again."""
    old, stages = campaign.state(), campaign.stages()
    start = json.loads((campaign.directory / "round-000/start/start.json").read_text())["model"]["digest"]
    forgetful = old | {"champion": {"round": 0, "digest": start}, "target": 2, "rounds": []}
    (campaign.directory / "campaign.json").write_text(json.dumps(forgetful))
    output = campaign.run()
    kept = {stage: files for stage, files in stages.items() if stage.split("/")[1] not in ("evaluate", "promote")}
    assert_stages_are_untouched(campaign, kept)
    assert sorted(campaign.stages()) == sorted(stages)
    lines = [line.split()[0] for line in output.splitlines() if line.endswith("already done")]
    assert lines == [stage.split("/")[0] for stage in PUBLISHED if stage in kept]
    state = campaign.state()
    for record, former in zip(state["rounds"], old["rounds"], strict=True):
        assert record["policy_digest"] == former["policy_digest"]
        assert record["evidence"]["num_judged"] == former["win_rate_vs_champion"]["n"]
    assert len(state["id"]) == 32


def without_mlflow(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the records without their MLflow run, and without measures of later versions, which they must not have."""
    assert all(record.get(name) is None for record in records for name in LATER_MEASURES)
    left_out = {"mlflow_run_id", "git_sha", *LATER_MEASURES}
    return [{name: value for name, value in record.items() if name not in left_out} for record in records]


def prompts_of_round(campaign: Campaign, round: int) -> set[str]:
    table = pd.read_parquet(campaign.directory / f"round-{round:03d}/generate_responses/prompts.parquet")
    return set(table["prompt_id"])


def assert_stages_are_untouched(campaign: Campaign, before: dict[str, dict[str, tuple[int, bytes]]]) -> None:
    after = campaign.stages()
    assert [stage for stage in before if after.get(stage) != before[stage]] == [], "finished stages ran again"
    assert not (campaign.place / "cache" / "ratchet").exists(), "the start model was trained again"


def assert_status_shows(campaign: Campaign, state: dict[str, Any]) -> None:
    rows = [line.split() for line in campaign.ratchet("status", "small").splitlines()]
    for record in state["rounds"]:
        mark = "*" if record["round"] == state["champion"]["round"] else ""
        outcome = "promoted" if record["promoted"] else "refused"
        begin = [f"{record['round']}{mark}", str(record["num_pairs"])]
        (row,) = (row for row in rows if row[:2] == begin and row[-1] == outcome)
        assert f"{record['win_rate_vs_start']['value']:.3f}" in row
        assert f"{record['win_rate_vs_champion']['value']:.3f}" in row


def assert_report_shows(campaign: Campaign, state: dict[str, Any]) -> None:
    report = campaign.directory / "report.html"
    report.unlink()
    assert campaign.ratchet("report", "small").strip() == str(report)
    page = report.read_text()
    for record in state["rounds"]:
        assert f"{record['win_rate_vs_start']['value']:.3f}" in page
        assert record["policy_digest"][:8] in page


def assert_mlflow_has(campaign: Campaign, state: dict[str, Any]) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{campaign.runs / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("small")
    assert experiment is not None
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert sorted(runs) == ["campaign", "round 001", "round 002", "round 003"]
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    for record in state["rounds"]:
        run = runs[f"round {record['round']:03d}"]
        assert run.info.run_id == record["mlflow_run_id"]
        assert run.data.tags["policy_digest"] == record["policy_digest"]
        assert run.data.metrics["win_rate_vs_start"] == pytest.approx(record["win_rate_vs_start"]["value"], abs=1e-6)
        trained = campaign.directory / f"round-{record['round']:03d}/dpo_train"
        steps = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
        losses = [point.value for point in client.get_metric_history(run.info.run_id, "loss")]
        assert losses == pytest.approx([step["loss"] for step in steps], abs=1e-6)
    points = client.get_metric_history(runs["campaign"].info.run_id, "win_rate_vs_start")
    assert [point.step for point in points] == [1, 2, 3]
    expected = [record["win_rate_vs_start"]["value"] for record in state["rounds"]]
    assert [point.value for point in points] == pytest.approx(expected, abs=1e-6)
    versions = {version.tags["round"]: version for version in client.search_model_versions("name = 'small'")}
    assert sorted(versions) == ["1", "2", "3"]
    champion = client.get_model_version_by_alias("small", "champion")
    assert champion.version == versions[str(state["champion"]["round"])].version


def assert_compare_reads(campaign: Campaign, state: dict[str, Any]) -> None:
    compared = campaign.ratchet("compare", "small/1", "small/3")
    for record in (state["rounds"][0], state["rounds"][2]):
        assert f"{record['win_rate_vs_start']['value']:.3f}" in compared
        assert record["policy_digest"][:8] in compared
    assert "no held-out prompt whose answers both rounds kept" in compared, "the gates drew the same prompts"


def assert_lineage_reads(campaign: Campaign, state: dict[str, Any]) -> None:
    found = json.loads(campaign.ratchet("lineage", "small/3", "--json"))
    policies = [record["policy_digest"] for record in state["rounds"]]
    start = json.loads((campaign.directory / "round-000/start/start.json").read_text())["model"]["digest"]
    assert [model["digest"] for model in found["models"]] == [policies[2], policies[1], policies[0], start]
    assert found["damaged"] == []
