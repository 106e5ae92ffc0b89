"""Makes campaign directories in the formats that the stages publish, without running a stage."""

import json
import math
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from components.artifacts import publishing, write_json, write_table
from components.campaign.files import STAGES
from components.config import CampaignConfig
from components.records import Interval, ModelRef, RoundRecord

HELD_OUT = 256
HOSTILE = "<script>alert('x')</script>"
SECONDS = dict(zip(STAGES, (3.25, 0.5, 0.75, 61.5, 4.125, 0.0625), strict=True))


def made_digest(*parts: object) -> str:
    """A digest that a test can foretell."""
    return sha256(repr(parts).encode()).hexdigest()


def interval(value: float, half_width: float = 0.04, n: int = HELD_OUT) -> Interval:
    """An estimate with a symmetric interval."""
    return Interval(value=value, low=round(value - half_width, 6), high=round(value + half_width, 6), n=n)


def judge_health() -> dict[str, Any]:
    """A jury that likes long answers, and a juror whose name is markup."""
    part = {
        "agreement": interval(0.875).model_dump(),
        "position_consistency": None,
        "repetition_stability": None,
        "accuracy": 0.812,
    }
    return {
        "position_consistency": interval(0.75).model_dump(),
        "repetition_stability": None,
        "tie_share": interval(0.25).model_dump(),
        "invalid_share": 0.005,
        "length_preference": interval(0.625).model_dump(),
        "mean_length_difference": -3.5,
        "parts": {f"rule:{HOSTILE}": part},
    }


def data_checks(*, broken: bool) -> list[dict[str, Any]]:
    """The verdicts of three checks; if they are broken, one warns and one fails."""
    return [
        {"name": "tag_balance", "verdict": "skipped", "summary": "no tags", "share": None, "max_share": 0.9},
        {
            "name": "length_bias",
            "verdict": "warn" if broken else "pass",
            "summary": "the longer answer is right",
            "share": 0.704 if broken else 0.6,
            "max_share": 0.65,
        },
        {
            "name": "secrets",
            "verdict": "fail" if broken else "pass",
            "summary": f"{int(broken)} of 353 rows",
            "share": broken / 353,
            "max_share": 0.0,
        },
    ]


class CampaignMaker:
    """Writes a campaign's files stage by stage; promoted rounds move the champion, as in a real campaign."""

    def __init__(self, runs: Path, **config: Any) -> None:
        self.config = CampaignConfig(campaign="unit-campaign", **config)
        self.directory = runs / self.config.campaign
        self.champion = (0, made_digest("policy", 0))
        self.records: list[RoundRecord] = []
        self.directory.mkdir(parents=True)
        write_json(self.directory / "config.json", self.config.model_dump(mode="json"))
        self.save(target=None)

    def save(self, *, target: int | None) -> None:
        """Write campaign.json as it stands."""
        champion = {"round": self.champion[0], "digest": self.champion[1]}
        rounds = [record.model_dump(mode="json") for record in self.records]
        state = {"campaign": self.config.campaign, "champion": champion, "target": target, "rounds": rounds}
        write_json(self.directory / "campaign.json", state)

    def stage(self, round_: int, stage: str, files: dict[str, Any]) -> None:
        """Publish a stage's files: tables, dicts, or lists of dicts as JSON lines."""
        name = "start" if stage == "start" else stage
        with publishing(
            self.directory / f"round-{round_:03d}" / name, stage=stage, version=1, key=made_digest(round_, stage)
        ) as workspace:
            workspace.peak_memory_bytes = 3 * 2**29
            for file, content in files.items():
                path = workspace.path / file
                if isinstance(content, pd.DataFrame):
                    write_table(path, content)
                elif isinstance(content, list):
                    path.write_text("".join(json.dumps(line) + "\n" for line in content))
                else:
                    write_json(path, content)

    def start(self) -> None:
        """Publish round 0."""
        judge = {"config": self.config.judge.model_dump(mode="json"), "digest": made_digest("judge")}
        tables = {
            f"{name}_prompts.parquet": pd.DataFrame({"prompt_id": [name], "messages": ["[]"]})
            for name in ("train", "held_out")
        }
        digest = made_digest("policy", 0)
        content = {
            "model": ModelRef(round=0, base="model", base_digest=digest, digest=digest).model_dump(mode="json"),
            "judge": judge,
            "evaluation_judge": judge,
            "num_train_prompts": 2048,
            "num_held_out_prompts": HELD_OUT,
            "dropped_duplicates": 7,
            "dropped_held_out": 5,
        }
        self.stage(0, "start", {**tables, "start.json": content})

    def generate(self, round_: int) -> None:
        """Publish responses whose lengths shrink over the rounds."""
        chance = np.random.default_rng(round_)
        n_tokens = np.clip(chance.normal(34 - 4 * round_, 7, 1536).round().astype(int), 3, 48)
        reasons = np.where(n_tokens >= 48, "length", "stop")
        responses = pd.DataFrame(
            {"prompt_id": "a", "sample_id": 0, "text": f"r{round_}", "n_tokens": n_tokens, "finish_reason": reasons}
        )
        prompts = pd.DataFrame({"prompt_id": [str(round_)]})
        self.stage(round_, "generate_responses", {"prompts.parquet": prompts, "responses.parquet": responses})

    def collect(self, round_: int, *, responses: int = 1536) -> None:
        """Publish counts of verdicts and pairs that add up."""
        counts: dict[str, float] = {
            "prompts": 384,
            "responses": responses,
            "verdicts": responses,
            "invalid_verdicts": 2 * bool(responses),
        }
        counts |= {
            "pairs": 350 + round_,
            "ties": 21,
            "below_margin": 13 - round_,
            "no_verdict": 0,
            "mean_score": 0.9 + 0.4 * round_,
        }
        if round_ > 1:  # the first round is one of an earlier version, which did not count these
            counts |= {"pairs": 700, "paired": 348 + round_, "not_compared": 2, "tied_pairs": 0}
        measured = None if not responses or round_ == 2 else judge_health()
        content = {**counts, "judge_health": measured}
        files = {"preferences.parquet": pd.DataFrame({"pair_id": [f"{round_}-0"]}), "collect.json": content}
        if round_ == 3:
            content["active"] = {
                "budget": 40,
                "choose_by": "disagreement",
                "candidates": 353,
                "asked": 40,
                "agreed": 27,
            }
            content["active"] |= {"flipped": 9, "ties": 3, "invalid": 1, "dropped": 3}
            content["violations"] = {HOSTILE: {"violated": 3, "checked": 12, "invalid": 1}}
            files["judge_usage.json"] = {
                "calls": 1200,
                "unmeasured": 0,
                "input_tokens": 9,
                "output_tokens": 9,
                "cost": 3.456,
            }
        self.stage(round_, "collect_preferences", files)

    def validate(self, round_: int) -> None:
        """Publish counts of checked pairs that add up."""
        reasons = {"identical after truncation": 4, "duplicate": 3} if round_ == 2 else {}
        received, quarantined = 350 + round_, sum(reasons.values())
        counts = {
            "received": received,
            "replayed": 0,
            "train": received - 35 - quarantined,
            "eval": 35,
            "quarantined": quarantined,
        }
        counts |= {"reasons": reasons, "quarantine_share": quarantined / received}
        files = {"train.parquet": pd.DataFrame({"pair_id": [f"train {round_}"]}), "validation.json": counts}
        if round_ > 1:  # the first round is one of an earlier version, which had no data checks
            counts["checks"] = data_checks(broken=round_ == 3)
            rows = [{"check": "secrets", "place": "pair 7", "detail": "API key", "excerpt": f"{HOSTILE} [API key]"}]
            files["check_examples.parquet"] = pd.DataFrame(
                rows if round_ == 3 else [], columns=["check", "place", "detail", "excerpt"], dtype="str"
            )
        self.stage(round_, "validate_data", files)

    def train(self, round_: int, *, steps: int = 60) -> None:
        """Publish training curves that begin at ln 2."""
        chance = np.random.default_rng(100 + round_)
        metrics = []
        for step in range(1, steps + 1):
            margin = 1.6 * (1 - math.exp(-3 * (step - 1) / steps)) + chance.normal(0, 0.08) * (step > 1)
            metrics.append(
                {
                    "step": step,
                    "loss": math.log1p(math.exp(-margin)),
                    "rewards/margins": margin,
                    "rewards/accuracies": float(np.clip(0.5 + 0.28 * margin + chance.normal(0, 0.03), 0, 1)),
                    "logps/chosen": -31 - 2 * round_ - margin + chance.normal(0, 0.5),
                    "logps/rejected": -36 - 2 * round_ - 8 * margin + chance.normal(0, 0.5),
                }
            )
        digest = self.champion[1]
        content = {
            "start_digest": digest,
            "reference_digest": digest,
            "policy_digest": made_digest("policy", round_),
            "num_pairs": 315 + round_,
            "num_steps": steps,
            "first_loss": math.log(2),
            "ln2_checked": True,
            "eval": {"loss": 0.402, "rewards/accuracies": 0.861, "rewards/margins": 1.21, "num_pairs": 35},
        }
        self.stage(round_, "dpo_train", {"metrics.jsonl": metrics, "train.json": content})

    def evaluate(
        self, round_: int, *, vs_champion: float, samples: pd.DataFrame | None = None, scored: bool = True
    ) -> None:
        """Publish an evaluation with samples."""
        rewards = {"start": 0.861, "champion": 0.861 + 0.5 * (round_ - 1), "challenger": 0.861 + 0.52 * round_}
        content = {
            "num_prompts": HELD_OUT,
            "judge": "rule support_reply",
            "win_rate_vs_champion": interval(vs_champion).model_dump(),
            "win_rate_vs_start": interval(0.7 + 0.06 * round_, 0.035).model_dump(),
            "mean_reward": rewards if scored else None,
            "kl_to_start": 2.718 * round_,
            "kl_to_start_interval": interval(2.718 * round_, 0.25).model_dump(),
            "mean_tokens": {"start": 30.5, "champion": 27.25, "challenger": 26.125 - round_},
            "empty_share": {"start": 0.0, "champion": 0.0, "challenger": 0.0},
            "unfinished_share": {"start": 0.031, "champion": 0.012, "challenger": 0.004},
            "reward_accuracy": 0.861,
            "reward_margin": 1.21,
            "invalid_share": 0.0,
        }
        table = self.samples(round_) if samples is None else samples
        self.stage(round_, "evaluate", {"evaluation.json": content, "samples.parquet": table})

    def promote(
        self, round_: int, *, promoted: bool, reasons: tuple[str, ...], vs_champion: float, scored: bool = True
    ) -> None:
        """Publish the decision and record the round in campaign.json, with the numbers that `evaluate` published."""
        self.stage(round_, "promote", {"decision.json": {"promoted": promoted, "reasons": list(reasons)}})
        tracking = self.directory / f"round-{round_:03d}" / "tracking.json"
        write_json(
            tracking, {"run_id": f"run{round_}", "experiment_id": "4", "model_version": round_ if promoted else None}
        )
        reference, digest = self.champion[1], made_digest("policy", round_)
        self.records.append(
            RoundRecord(
                round=round_,
                promoted=promoted,
                reasons=reasons,
                num_pairs=315 + round_,
                win_rate_vs_champion=interval(vs_champion),
                win_rate_vs_start=interval(0.7 + 0.06 * round_, 0.035),
                kl_to_start=2.718 * round_,
                mean_tokens=26.125 - round_,
                mean_reward=0.861 + 0.52 * round_ if scored else None,
                seconds={stage: seconds + round_ for stage, seconds in SECONDS.items()},
                policy_digest=digest,
                reference_digest=reference,
                mlflow_run_id=f"run{round_}",
            )
        )
        self.champion = (round_, digest) if promoted else self.champion
        self.save(target=None)

    def round(self, round_: int, *, promoted: bool, reasons: tuple[str, ...], vs_champion: float) -> None:
        """Publish a whole round."""
        self.generate(round_)
        self.collect(round_)
        self.validate(round_)
        self.train(round_)
        self.evaluate(round_, vs_champion=vs_champion)
        self.promote(round_, promoted=promoted, reasons=reasons, vs_champion=vs_champion)

    @staticmethod
    def samples(round_: int) -> pd.DataFrame:
        """Twelve comparisons: hostile texts first, an empty answer, a long one, an unjudged one, and all outcomes."""
        answer = "I am sorry about the cracked lamp in order 4417. We will send a replacement today."
        rows = [
            {
                "prompt_id": str(index),
                "prompt": f"My lamp arrived cracked, order {4417 + index}. (round {round_})",
                "start": "whatever. read the manual",
                "champion": "I am sorry. We will look at the lamp.",
                "challenger": answer,
                "reward_start": -0.5,
                "reward_champion": 1.25,
                "reward_challenger": 2.75,
                "outcome_vs_champion": (1.0, 1.0, 0.5, 0.0)[index % 4],
                "outcome_vs_start": 1.0,
            }
            for index in range(12)
        ]
        rows[0] |= {
            "prompt": f"Please | help\n{HOSTILE}",
            "challenger": f"{HOSTILE} ![x](https://example.org/x.png) a | b\nsecond line",
        }
        rows[1] |= {"start": "", "champion": "sorry " * 60}
        rows[2] |= {"reward_start": None, "outcome_vs_start": None}
        return pd.DataFrame(rows)


@pytest.fixture
def make_campaign(tmp_path: Path) -> Callable[..., CampaignMaker]:
    """Start a campaign under a temporary runs directory."""

    def make(**config: Any) -> CampaignMaker:
        maker = CampaignMaker(tmp_path / "runs", **config)
        maker.start()
        return maker

    return make


@pytest.fixture
def three_rounds(make_campaign: Callable[..., CampaignMaker]) -> CampaignMaker:
    """Three rounds of which the gate refused the second, to go on with."""
    return with_three_rounds(make_campaign())


@pytest.fixture(scope="package")
def finished_campaign(tmp_path_factory: pytest.TempPathFactory) -> CampaignMaker:
    """The same three rounds, not to be changed."""
    maker = CampaignMaker(tmp_path_factory.mktemp("finished") / "runs")
    maker.start()
    return with_three_rounds(maker)


def with_three_rounds(maker: CampaignMaker) -> CampaignMaker:
    maker.round(1, promoted=True, reasons=("lower bound 0.7200 is above 0.5",), vs_champion=0.76)
    maker.round(2, promoted=False, reasons=("lower bound 0.4410 <= 0.5", "length ratio 1.71 > 1.5"), vs_champion=0.481)
    maker.round(3, promoted=True, reasons=("lower bound 0.5830 is above 0.5",), vs_champion=0.623)
    return maker
