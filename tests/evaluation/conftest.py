from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from components.artifacts import file_digest, write_json, write_table
from components.builtin.world import held_out_prompts
from components.config import ConstraintsConfig, EvaluationConfig, JudgeConfig, PolicyConfig
from components.data.messages import format_messages
from components.data.prompts import make_prompt
from components.judges.registry import judge_digest
from components.models.loading import load_policy, load_tokenizer, start_ref
from components.records import Artifact, EvaluateRequest, JudgeRef, ModelRef, PromotionTest

NUM_PROMPTS = 24
"""Prompts of a round's gate: all that the audit leaves of the pool of 30."""
STOPS = {"start": 0.1, "near": 0.15, "terse": 0.6, "rambling": 0.005}
TRAINED = {"loss": 0.5, "rewards/accuracies": 0.8125, "rewards/margins": 0.4, "num_pairs": 16}


def distribution(tokenizer: Any, stop: float) -> torch.Tensor:
    """Return the probability of each token: `stop` for the end, the rest equally for the ordinary words."""
    words = [token for token in range(len(tokenizer)) if token not in tokenizer.all_special_ids]
    probabilities = torch.zeros(len(tokenizer))
    probabilities[words] = (1 - stop) / len(words)
    probabilities[tokenizer.eos_token_id] = stop
    return probabilities


def plant(model: Any, probabilities: torch.Tensor) -> None:
    """Set the weights so that every next token has these probabilities, whatever came before.

    Lengths and KL are then known exactly.
    """
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.zero_()[:, 0] = 100.0
        model.model.norm.weight.fill_(1.0)
        # The residual stream is then along the first axis, where the last norm gives it the root of its size.
        model.lm_head.weight.zero_()[:, 0] = probabilities.clamp(min=1e-12).log() / model.config.hidden_size**0.5


@pytest.fixture(scope="session")
def models(starter_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelRef]:
    """Return policies that sample random words and differ in how soon they stop."""
    starter = start_ref(starter_directory, revision="main")
    tokenizer = load_tokenizer(starter)
    found = {}
    for name, stop in STOPS.items():
        directory = tmp_path_factory.mktemp("models") / name
        model = load_policy(starter, dtype=torch.float32, device=torch.device("cpu"))
        plant(model, distribution(tokenizer, stop))
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        found[name] = start_ref(directory, revision="main")
    return found


@pytest.fixture(scope="session")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    path = tmp_path_factory.mktemp("held_out") / "held_out_prompts.parquet"
    prompts = [make_prompt(messages) for messages in held_out_prompts()[: NUM_PROMPTS + 6]]
    write_table(
        path,
        pd.DataFrame(
            {"prompt_id": [p.prompt_id for p in prompts], "messages": [format_messages(p.messages) for p in prompts]}
        ),
    )
    return Artifact(path=path, digest=file_digest(path))


@pytest.fixture
def make_request(models: dict[str, ModelRef], held_out: Artifact, tmp_path: Path) -> Callable[..., EvaluateRequest]:
    """Return a function that builds an evaluation request from names of models and changed fields."""

    def make(
        challenger: str, champion: str, *, limits: dict[str, Any] | None = None, trained: Any = TRAINED, **changes: Any
    ) -> EvaluateRequest:
        training = tmp_path / "train.json"
        write_json(training, {"num_pairs": 100, "eval": trained})
        judge = JudgeConfig(kind="rule", rule="support_reply")
        settings: dict[str, Any] = {
            "challenger": models[challenger],
            "champion": models[champion],
            "start": models["start"],
            "held_out": held_out,
            "training": Artifact(path=training, digest=file_digest(training)),
            "limits": PolicyConfig(
                **{"dtype": "float32", "max_prompt_tokens": 64, "max_response_tokens": 32, **(limits or {})}
            ),
            "num_held_out": NUM_PROMPTS,
            "round": 1,
            "campaign_seed": 5,
            "audit_share": 0.2,
            "test": PromotionTest(level=0.02, look_every=NUM_PROMPTS),
            "engine": "transformers",
            "batch_size": 16,
            "judge": JudgeRef(config=judge, digest=judge_digest(judge)),
            "constraints": ConstraintsConfig(),
            "evaluation": EvaluationConfig(bootstrap_resamples=500, num_samples=10),
            "seed": 41,
        }
        return EvaluateRequest(**{**settings, **changes})

    return make
