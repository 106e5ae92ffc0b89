"""A campaign as rounds leave it on disk, with a real SQLite MLflow beside it; no stage is run."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read when mlflow is imported

from components.artifacts import digest, publishing, write_json, write_table
from components.campaign.files import STAGES
from components.campaign.state import Champion, State, finish_round, note_mlflow_run, read_state, write_state
from components.config import CampaignConfig, JudgeConfig, TrackingConfig
from components.judges.protocol import Verdict
from components.preferences.tables import write_verdicts
from components.records import Interval, JudgeRef, RoundRecord

GIT_SHA = "0123456789abcdef0123456789abcdef01234567"
POLICIES = ("start", "champion", "challenger")
WEIGHT_BYTES = 4096


def interval(value: float) -> Interval:
    return Interval(value=value, low=value - 0.0625, high=value + 0.0625, n=256)


class Campaign:
    """Writes a campaign round by round, as the flow does: each starts from the champion that campaign.json names."""

    def __init__(self, runs: Path, name: str, **config: Any) -> None:
        self.directory = runs / name
        self.start_digest = digest(["policy", name, 0])
        self.config = CampaignConfig(campaign=name, **config).model_dump(mode="json")

    def begin(self) -> None:
        """Publish round 0."""
        self.directory.mkdir()
        write_json(self.directory / "config.json", self.config)
        write_state(
            self.directory, State(campaign=self.directory.name, champion=Champion(round=0, digest=self.start_digest))
        )
        self._publish_start()

    @property
    def state(self) -> State:
        state = read_state(self.directory)
        assert state is not None
        return state

    def stage(self, round: int, name: str) -> Path:
        return self.directory / f"round-{round:03d}" / name

    def policy_digest(self, round: int) -> str:
        return digest(["policy", self.directory.name, round]) if round else self.start_digest

    def round(
        self, round: int, *, promoted: bool = True, reference: int | None = None, weights: str = "model"
    ) -> RoundRecord:
        """Publish all stages of a round and finish it."""
        champion = self.state.champion
        record = self._record(round, promoted, self.policy_digest(champion.round if reference is None else reference))
        self._publish_data(round)
        self._publish_training(round, champion.digest, record, weights)
        self._publish_evaluation(round, record)
        finish_round(self.directory, record)
        return record

    def track(self, round: int) -> None:
        """Record a round in MLflow, as the flow does."""
        from components.tracking import record_round

        record = next(record for record in self.state.rounds if record.round == round)
        tracked = record_round(self.directory, record, config=self.config, tracking=TrackingConfig())
        write_json(self.directory / f"round-{round:03d}" / "tracking.json", tracked)
        note_mlflow_run(self.directory, round, tracked.run_id)

    def _record(self, round: int, promoted: bool, reference: str) -> RoundRecord:
        return RoundRecord(
            round=round,
            promoted=promoted,
            reasons=("lower bound 0.69 is above 0.5",)
            if promoted
            else ("lower bound 0.41 is not above 0.5", "too long"),
            num_pairs=80 + round,
            win_rate_vs_champion=interval(0.75 if promoted else 0.46875),
            win_rate_vs_start=interval(0.6875 + round / 64),
            kl_to_start=4.5 * round,
            mean_tokens=21.5 + round,
            mean_reward=0.875 + round / 2,
            seconds=dict(zip(STAGES, (3.5, 0.25, 0.125, 4.0 * round, 2.0, 0.125), strict=True)),
            policy_digest=self.policy_digest(round),
            reference_digest=reference,
            git_sha=GIT_SHA,
        )

    def _publish_start(self) -> None:
        judge = JudgeRef(config=JudgeConfig(), digest=digest("rule")).model_dump(mode="json")
        model = {"round": 0, "base": "model", "base_digest": self.start_digest, "digest": self.start_digest}
        counts = {"num_train_prompts": 4, "num_held_out_prompts": 4, "dropped_duplicates": 0, "dropped_held_out": 0}
        with publishing(self.stage(0, "start"), stage="start", version=1, key="k") as work:
            for name in ("train_prompts", "held_out_prompts"):
                rows = [
                    (f"{name}-{row}", json.dumps([{"role": "user", "content": f"hello {row}"}])) for row in range(4)
                ]
                write_table(work.path / f"{name}.parquet", pd.DataFrame(rows, columns=["prompt_id", "messages"]))
            _write_weights(work.path / "model", "start")
            write_json(work.path / "start.json", {"model": model, "judge": judge, "evaluation_judge": judge, **counts})

    def _publish_data(self, round: int) -> None:
        with publishing(
            self.stage(round, "generate_responses"), stage="generate_responses", version=1, key="k"
        ) as work:
            write_table(work.path / "prompts.parquet", pd.DataFrame({"prompt_id": [f"a{round}"], "messages": ["[]"]}))
            answer = {
                "prompt_id": f"a{round}",
                "sample_id": 0,
                "text": "sorry",
                "token_ids": [5],
                "n_tokens": 1,
                "finish_reason": "stop",
            }
            write_table(work.path / "responses.parquet", pd.DataFrame([answer | {"seed": 7}]))
            write_json(
                work.path / "generate.json",
                {"prompts": 1, "responses": 1, "skipped_long_prompts": 0, "tokens": 1, "unfinished": 0, "empty": 0},
            )
        counts = {
            "prompts": 100,
            "responses": 400,
            "verdicts": 400,
            "invalid_verdicts": 2,
            "pairs": 90,
            "ties": 6,
            "below_margin": 3,
        }
        pairs = pd.DataFrame([pair(round, number) for number in (1, 2)])
        with publishing(
            self.stage(round, "collect_preferences"), stage="collect_preferences", version=1, key="k"
        ) as work:
            write_json(work.path / "collect.json", {**counts, "no_verdict": 1, "mean_score": 1.125})
            write_table(work.path / "preferences.parquet", pairs)
            write_verdicts(work.path, [Verdict(f"v{round}", f"a{round}", 0, None, 1.0, "ok", "rule:support_reply", "")])
        counts = {"received": 90, "replayed": 0, "train": 80, "eval": 8, "quarantined": 2}
        with publishing(self.stage(round, "validate_data"), stage="validate_data", version=1, key="k") as work:
            checked = pairs.assign(origin_round=round)
            for name, table in (
                ("train", checked),
                ("eval", checked.head(1)),
                ("quarantine", checked.head(0).assign(reason="")),
            ):
                write_table(work.path / f"{name}.parquet", table)
            write_json(
                work.path / "validation.json", {**counts, "quarantine_share": 0.0222, "reasons": {"duplicate": 2}}
            )

    def _publish_training(self, round: int, started_from: str, record: RoundRecord, weights: str) -> None:
        content = {
            "start_digest": started_from,
            "reference_digest": record.reference_digest,
            "policy_digest": record.policy_digest,
            "directory": weights,
            "num_pairs": 80,
            "num_steps": 1,
            "first_loss": 0.6931,
            "ln2_checked": True,
            "dtype": "float32",
            "zero_stage": 0,
            "num_processes": 1,
            "resumed_from_step": 0,
            "eval": {"loss": 0.4, "rewards/accuracies": 0.875, "rewards/margins": 0.625, "num_pairs": 8},
        }
        step = {"step": 1, "epoch": 1.0, "loss": 0.5, "learning_rate": 1e-4, "grad_norm": 1.5, "time": 1.8e9}
        step |= {
            "rewards/chosen": 0.125,
            "rewards/rejected": -0.125,
            "rewards/margins": 0.25,
            "rewards/accuracies": 0.625,
        }
        step |= {"logps/chosen": -20.0, "logps/rejected": -30.0, "pairs_per_second": 20.0, "tokens_per_second": 900.0}
        with publishing(self.stage(round, "dpo_train"), stage="dpo_train", version=1, key="k") as work:
            (work.path / "metrics.jsonl").write_text(json.dumps(step) + "\n")
            write_json(work.path / "train.json", content)
            _write_weights(work.path / weights, record.policy_digest)

    def _publish_evaluation(self, round: int, record: RoundRecord) -> None:
        evaluation = {
            "num_prompts": 256,
            "win_rate_vs_champion": record.win_rate_vs_champion.model_dump(),
            "win_rate_vs_start": record.win_rate_vs_start.model_dump(),
            "mean_reward": dict(zip(POLICIES, (0.875, 1.25, record.mean_reward), strict=True)),
            "kl_to_start": record.kl_to_start,
            "kl_to_start_interval": interval(record.kl_to_start).model_dump(),
            "mean_tokens": dict(zip(POLICIES, (20.0, 21.0, record.mean_tokens), strict=True)),
            "empty_share": dict.fromkeys(POLICIES, 0.0),
            "unfinished_share": dict.fromkeys(POLICIES, 0.0),
            "reward_accuracy": 0.875,
            "reward_margin": 0.625,
            "invalid_share": 0.0,
        }
        with publishing(self.stage(round, "evaluate"), stage="evaluate", version=1, key="k") as work:
            write_json(work.path / "evaluation.json", evaluation)
            write_table(work.path / "samples.parquet", samples(round))
        with publishing(self.stage(round, "promote"), stage="promote", version=1, key="k") as work:
            write_json(work.path / "decision.json", {"promoted": record.promoted, "reasons": list(record.reasons)})


def pair(round: int, number: int) -> dict[str, Any]:
    prompt = json.dumps([{"role": "user", "content": f"hello {number}"}])
    answers = {"chosen": f"good {round}", "rejected": f"bad {number}"}
    judged = {
        "p": 1.0,
        "margin": 0.5,
        "tag": "helpfulness",
        "judge": "rule:support_reply",
        "verdict_ids": [f"v{round}"],
    }
    return {"pair_id": f"p{number}", "prompt_id": f"a{number}", "prompt": prompt, **answers, **judged}


def samples(round: int) -> pd.DataFrame:
    """Three held-out prompts; every round answers the first alike, and has the third to itself."""
    prompts = {
        "h0": "Where is order 12?",
        "h1": "It [bold]broke[/bold].",
        f"own-{round}": f"Only round {round} met this.",
    }
    answers = {name: ["hm", "no", "?"] for name in ("start", "champion")}
    answers["challenger"] = ["It is on its way.", f"Sorry, says round {round}.", "Yes."]
    rewards = {f"reward_{name}": [0.5, 1.5, 2.5] for name in POLICIES}
    outcomes = {"outcome_vs_champion": [1.0, 0.5, 0.0], "outcome_vs_start": [1.0, 0.5, None]}
    return pd.DataFrame(
        {"prompt_id": list(prompts), "prompt": list(prompts.values()), **answers, **rewards, **outcomes}
    )


def _write_weights(directory: Path, content: str) -> None:
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(content.encode().ljust(WEIGHT_BYTES, b"."))


@pytest.fixture(scope="session")
def migrated_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store: making one takes seconds, copying it does not."""
    from components.tracking import ensure_store

    directory = tmp_path_factory.mktemp("mlflow")
    ensure_store(directory)
    return directory / "mlflow.db"


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runs directory with no campaign and no store."""
    directory = tmp_path / "runs"
    directory.mkdir()
    monkeypatch.setenv("RATCHET_RUNS", str(directory))
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return directory


@pytest.fixture
def store(runs: Path, migrated_store: Path) -> Path:
    """An empty MLflow store in the runs directory."""
    shutil.copy(migrated_store, runs / "mlflow.db")
    return runs / "mlflow.db"


@pytest.fixture
def make_campaign(runs: Path) -> Callable[..., Campaign]:
    def make(name: str = "demo", **config: Any) -> Campaign:
        campaign = Campaign(runs, name, **config)
        campaign.begin()
        return campaign

    return make


@pytest.fixture
def demo(make_campaign: Callable[..., Campaign]) -> Campaign:
    """Four rounds: the first and the third were promoted, the second and the fourth refused."""
    campaign = make_campaign()
    run_four_rounds(campaign)
    return campaign


def run_four_rounds(campaign: Campaign) -> None:
    for round in (1, 2, 3, 4):
        campaign.round(round, promoted=round % 2 == 1)


@pytest.fixture(scope="session")
def recorded_once(tmp_path_factory: pytest.TempPathFactory, migrated_store: Path) -> Path:
    """A runs directory whose four rounds are in MLflow: recording takes seconds, copying does not.

    The copy's store names files here.
    """
    runs = tmp_path_factory.mktemp("recorded")
    shutil.copy(migrated_store, runs / "mlflow.db")
    campaign = Campaign(runs, "demo")
    campaign.begin()
    run_four_rounds(campaign)
    for round in (1, 2, 3, 4):
        campaign.track(round)
    return runs


@pytest.fixture
def tracked(runs: Path, recorded_once: Path) -> Campaign:
    """The four rounds of `demo`, all in MLflow: version = round. For tests that leave MLflow's files alone."""
    shutil.copy(recorded_once / "mlflow.db", runs / "mlflow.db")
    shutil.copytree(recorded_once / "demo", runs / "demo")
    return Campaign(runs, "demo")
