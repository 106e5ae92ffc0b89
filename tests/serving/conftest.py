"""Campaigns on disk with a start model, a trained round and an adapter round.

None was run, their weights are made here.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from components.artifacts import write_json
from components.campaign.models import model_of_round
from components.campaign.state import Champion, State, round_directory, write_state
from components.config import CampaignConfig
from components.models.loading import load_policy, load_tokenizer, trained_ref
from components.records import Interval, ModelRef, RoundRecord, StartRequest
from components.runtime.launch import run_stage
from components.start.preflight import check_inputs

RATE = Interval(value=0.7, low=0.65, high=0.75, n=256)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory of campaigns."""
    monkeypatch.setenv("RATCHET_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.fixture
def make_campaign(runs: Path, starter_directory: Path) -> Callable[..., Path]:
    """Make a campaign whose rounds 1, 2, ... trained `full` weights or an `adapter`; the last one is the champion."""

    def make(*kinds: str, name: str = "served", **policy: Any) -> Path:
        directory = runs / name
        config = CampaignConfig.model_validate(
            {
                "campaign": name,
                "policy": {"model": str(starter_directory), "dtype": "float32", "max_response_tokens": 24} | policy,
            }
        )
        request = StartRequest(
            policy=config.policy,
            judge=config.judge,
            evaluation_judge=config.evaluation_judge,
            active_judge=config.active.judge,
            prompts=config.prompts,
            prompts_digest=check_inputs(config).prompts_digest,
        )
        run_stage("start", request, directory / "round-000")
        write_json(directory / "config.json", config.model_dump(mode="json"))
        start = model_of_round(directory, 0)
        models = [start, *(train(directory, number, kind, start) for number, kind in enumerate(kinds, start=1))]
        champion = Champion(round=models[-1].round, digest=models[-1].digest)
        write_state(
            directory, State(campaign=name, champion=champion, rounds=tuple(record(model) for model in models[1:]))
        )
        return directory

    return make


def train(directory: Path, number: int, kind: str, start: ModelRef) -> ModelRef:
    """Stands for a training: weights that are clearly not the start model's, in the files that dpo_train leaves."""
    stage = round_directory(directory, number) / "dpo_train"
    stage.mkdir(parents=True)
    model = load_policy(start, dtype=torch.float32, device=torch.device("cpu"))
    chance = torch.Generator().manual_seed(number)
    if kind == "adapter":
        from peft import LoraConfig, get_peft_model

        wrapped = get_peft_model(
            model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
        )
        with torch.no_grad():
            for name, weight in wrapped.named_parameters():
                if "lora_B" in name:
                    weight.copy_(0.3 * torch.randn(weight.shape, generator=chance))
        wrapped.save_pretrained(stage / "adapter")
    else:
        with torch.no_grad():
            for weight in model.model.layers.parameters():
                weight.add_(0.3 * weight.std() * torch.randn(weight.shape, generator=chance))
        model.save_pretrained(stage / "model")
        load_tokenizer(start).save_pretrained(stage / "model")
    trained = trained_ref(stage, start, number)
    write_json(
        stage / "train.json",
        {"policy_digest": trained.digest, "directory": "adapter" if kind == "adapter" else "model"},
    )
    return model_of_round(directory, number)


def record(model: ModelRef) -> RoundRecord:
    """A promoted round."""
    return RoundRecord(
        round=model.round,
        promoted=True,
        reasons=(),
        num_pairs=100,
        win_rate_vs_champion=RATE,
        win_rate_vs_start=RATE,
        kl_to_start=1.5,
        mean_tokens=20.0,
        mean_reward=2.0,
        seconds={"dpo_train": 12.5},
        policy_digest=model.digest,
        reference_digest="r",
    )
