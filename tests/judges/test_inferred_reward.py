"""A saved reward judges as beta times the log-ratio of the models it was saved from, wherever its directory lies."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from components.artifacts import read_json, write_json
from components.config import EvaluationConfig, GenerationConfig, JudgeConfig, LoraConfig, SoftPromptConfig
from components.data.messages import format_messages
from components.inferred_reward.saving import save_reward
from components.inferred_reward.stage import run
from components.judges.protocol import JudgeContext, Verdict
from components.judges.registry import check_judge, describe_judge, judge_digest, load_judge
from components.models.adapters import with_fresh_adapter
from components.models.loading import load_policy, start_ref, trained_ref
from components.records import InferRewardRequest, ModelRef, ShownDemonstration
from tests.judges.test_implicit_reward import LIMITS, TEXTS, by_response, groups, judged, models  # noqa: F401

WHOLE = LIMITS.model_copy(update={"max_response_tokens": 64})
"""Limits within which no text is cut."""


def request(policy: ModelRef, start: ModelRef, beta: float = 0.2, *shown: ShownDemonstration) -> InferRewardRequest:
    return InferRewardRequest(
        campaign="shown",
        policy=policy,
        start=start,
        limits=WHOLE,
        beta=beta,
        demonstrations=shown,
        samples=2,
        sampling=EvaluationConfig(),
        generation=GenerationConfig(),
        batch_size=4,
        seed=3,
    )


def saved_verdicts(directory: Path, **knobs: Any) -> list[Verdict]:
    judge = JudgeConfig(kind="inferred_reward", model=str(directory), batch_size=4, **knobs)
    check_judge(judge)
    return load_judge(judge, JudgeContext(Path("unused"))).judge(groups())


@pytest.fixture
def adapted(models: dict[str, ModelRef], tmp_path: Path) -> ModelRef:  # noqa: F811
    """An adapter on the start model, which moves it."""
    model = load_policy(models["start"], dtype=torch.float32, device=torch.device("cpu"))
    peft = with_fresh_adapter(model, LoraConfig(rank=4), SoftPromptConfig())
    chance = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in peft.named_parameters():
            if "lora_B" in name:
                weight.add_(0.1 * torch.randn(weight.shape, generator=chance))
    peft.save_pretrained(tmp_path / "round" / "adapter")
    return trained_ref(tmp_path / "round", models["start"], 2)


def test_saved_reward_is_beta_times_the_implicit_reward_wherever_it_lies(
    models: dict[str, ModelRef],  # noqa: F811
    tmp_path: Path,
) -> None:
    out = tmp_path / "saved"
    out.mkdir()
    save_reward(request(models["policy"], models["start"]), out)
    moved = out.rename(tmp_path / "moved")
    expected = by_response(judged(models, groups(), limits=WHOLE))
    assert by_response(saved_verdicts(moved)) == pytest.approx({key: 0.2 * expected[key] for key in expected}, abs=1e-4)


def test_saved_reward_scores_no_response_of_which_it_would_read_the_start_alone(
    models: dict[str, ModelRef],  # noqa: F811
    tmp_path: Path,
) -> None:
    save_reward(request(models["policy"], models["start"]), tmp_path)
    found = saved_verdicts(tmp_path, max_tokens=40)
    assert {verdict.status for verdict in found} == {"ok", "invalid"}
    details = [verdict.detail for verdict in found if verdict.status == "invalid"]
    assert all("tokens, and the inferred reward reads 40" in detail for detail in details)
    assert {verdict.sample_id for verdict in found if verdict.status == "ok"} == {2, 3}


def test_saved_reward_of_an_adapter_lies_on_the_start_model_once(
    models: dict[str, ModelRef],  # noqa: F811
    adapted: ModelRef,
    tmp_path: Path,
) -> None:
    out = tmp_path / "saved"
    out.mkdir()
    save_reward(request(adapted, models["start"]), out)
    assert {path.name for path in out.iterdir()} == {"start", "policy", "reward.json"}
    assert (out / "policy" / "adapter_config.json").is_file()
    expected = by_response(judged({"policy": adapted, "start": models["start"]}, groups(), limits=WHOLE))
    found = by_response(saved_verdicts(out))
    assert found == pytest.approx({key: 0.2 * expected[key] for key in expected}, abs=1e-4)
    assert len({round(score, 4) for score in found.values()}) == len(found)


def test_saved_rewards_identity_is_its_content(models: dict[str, ModelRef], tmp_path: Path) -> None:  # noqa: F811
    places = {}
    for name, beta in (("one", 0.2), ("two", 0.2), ("three", 0.1)):
        (tmp_path / name).mkdir()
        save_reward(request(models["policy"], models["start"], beta), tmp_path / name)
        places[name] = JudgeConfig(kind="inferred_reward", model=str(tmp_path / name))
    one, two, three = (judge_digest(judge) for judge in places.values())
    assert one == two != three
    assert describe_judge(places["one"]) == f"inferred_reward:{tmp_path / 'one'}"
    weights = tmp_path / "two" / "policy" / "model.safetensors"
    weights.unlink()
    shutil.copy(tmp_path / "one" / "start" / "model.safetensors", weights)
    assert judge_digest(places["two"]) != one


def test_saved_reward_that_is_incomplete_is_refused_in_one_line(
    models: dict[str, ModelRef],  # noqa: F811
    tmp_path: Path,
) -> None:
    judge = JudgeConfig(kind="inferred_reward", model=str(tmp_path))
    with pytest.raises(ValueError, match=r"is not an inferred reward .*: name the directory that"):
        check_judge(judge)
    save_reward(request(models["policy"], models["start"]), tmp_path)
    (tmp_path / "start" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="has no weights: save it with save_pretrained"):
        check_judge(judge)
    with pytest.raises(ValueError, match="kind inferred_reward needs `model`"):
        JudgeConfig(kind="inferred_reward")


def test_stage_measures_on_each_prompt_and_needs_no_demonstrations_to_save(
    models: dict[str, ModelRef],  # noqa: F811
    tmp_path: Path,
) -> None:
    asked = [ShownDemonstration(prompt=format_messages(group.messages), answer=TEXTS[0]) for group in groups()]
    for name, shown in (("with", asked), ("without", [])):
        (tmp_path / name).mkdir()
        run(request(models["policy"], models["start"], 0.2, *shown), tmp_path / name)
    measured = read_json(tmp_path / "with" / "inferred_reward.json")["held_out"]
    assert measured["prompts"] == measured["reward"]["accuracy"]["n"] == 3
    assert measured["own_answers"] == 6
    assert "against" not in measured
    assert read_json(tmp_path / "without" / "inferred_reward.json")["held_out"] is None
    assert start_ref(tmp_path / "without" / "policy", revision="main").digest == models["policy"].digest


def test_saved_reward_of_a_newer_version_is_refused(models: dict[str, ModelRef], tmp_path: Path) -> None:  # noqa: F811
    save_reward(request(models["policy"], models["start"]), tmp_path)
    write_json(tmp_path / "reward.json", {**read_json(tmp_path / "reward.json"), "format": 99})
    with pytest.raises(ValueError, match="newer version"):
        check_judge(JudgeConfig(kind="inferred_reward", model=str(tmp_path)))
