"""The implicit reward judge, against log-probabilities worked out one by one with plain transformers."""

import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from components.builtin.world import corpus, train_prompts
from components.config import JudgeConfig, PolicyConfig
from components.judges import implicit_reward
from components.judges.protocol import Group, JudgeContext, Verdict
from components.judges.registry import load_judge
from components.models.loading import load_policy, load_tokenizer, start_ref
from components.records import ModelRef

LIMITS = PolicyConfig(dtype="float32", max_prompt_tokens=64, max_response_tokens=24)
TEXTS = (corpus()[0][1], corpus()[1][1], "", "no", " ".join(["sorry"] * 40))


@pytest.fixture(scope="session")
def models(starter_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelRef]:
    """The start model, and one that clearly moved from it."""
    start, moved = start_ref(starter_directory, revision="main"), tmp_path_factory.mktemp("moved")
    model, chance = (
        load_policy(start, dtype=torch.float32, device=torch.device("cpu")),
        torch.Generator().manual_seed(1),
    )
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * weight.std() * torch.randn(weight.shape, generator=chance))
    model.save_pretrained(moved)
    load_tokenizer(start).save_pretrained(moved)
    return {"start": start, "policy": start_ref(moved, revision="main").model_copy(update={"round": 1})}


def groups() -> list[Group]:
    return [
        Group(f"p{number}", messages, tuple(enumerate(TEXTS))) for number, messages in enumerate(train_prompts()[:3])
    ]


def judged(
    models: dict[str, ModelRef], asked: Sequence[Group], *, limits: PolicyConfig = LIMITS, **knobs: Any
) -> list[Verdict]:
    context = JudgeContext(Path("unused"), limits=limits, **models)
    return load_judge(JudgeConfig(kind="implicit_reward", **knobs), context).judge(asked)


def by_response(verdicts: Sequence[Verdict]) -> dict[tuple[str, int], float | None]:
    return {(verdict.prompt_id, verdict.sample_id): verdict.score for verdict in verdicts}


def plain_logp(ref: ModelRef, messages: Any, text: str) -> float:
    """Run one forward pass over one unpadded text; the answer ends with the end-of-turn token, unless it is cut."""
    tokenizer, model = (
        AutoTokenizer.from_pretrained(ref.base),
        AutoModelForCausalLM.from_pretrained(ref.base, dtype=torch.float32),
    )
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": text}], tokenize=False)
    prompt_ids, ids = (tokenizer(words, add_special_tokens=False)["input_ids"] for words in (prompt, whole))
    answer = ids[len(prompt_ids) :]
    answer = answer[: answer.index(tokenizer.eos_token_id) + 1][: LIMITS.max_response_tokens]
    with torch.no_grad():
        logps = model(torch.tensor([prompt_ids + answer])).logits[0].double().log_softmax(dim=1)
    return sum(float(logps[len(prompt_ids) + place - 1, token]) for place, token in enumerate(answer))


def test_implicit_reward_is_the_difference_of_plain_log_probabilities(models: dict[str, ModelRef]) -> None:
    asked = groups()
    verdicts = judged(models, asked, batch_size=4)
    expected = {
        (group.prompt_id, number): plain_logp(models["policy"], group.messages, text)
        - plain_logp(models["start"], group.messages, text)
        for group in asked
        for number, text in group.responses
    }
    assert by_response(verdicts) == pytest.approx(expected, abs=2e-4)
    assert len({round(score, 4) for score in expected.values()}) == len(expected)
    assert {(verdict.judge, verdict.opponent_id, verdict.part) for verdict in verdicts} == {
        ("implicit_reward", None, "")
    }


def test_implicit_reward_depends_neither_on_order_nor_on_batches(models: dict[str, ModelRef]) -> None:
    asked = groups()
    one_by_one = by_response(judged(models, asked, batch_size=1))
    assert by_response(judged(models, asked, batch_size=64)) == pytest.approx(one_by_one, abs=1e-4)
    assert by_response(judged(models, asked, batch_size=4)) == by_response(judged(models, asked[::-1], batch_size=4))


def test_implicit_reward_of_the_start_model_itself_is_invalid_and_loads_nothing(
    models: dict[str, ModelRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A score of 0 for everything would count as a tie, and in a jury as a vote for one."""
    monkeypatch.setattr(implicit_reward, "load_policy", None)
    verdicts = judged({"policy": models["start"], "start": models["start"]}, groups())
    assert {(verdict.status, verdict.score) for verdict in verdicts} == {("invalid", None)}
    assert "still the start model" in verdicts[0].detail


def test_implicit_reward_of_a_prompt_that_is_too_long_is_invalid(models: dict[str, ModelRef]) -> None:
    short, long = groups()[:2]
    long = Group("long", [{"role": "user", "content": "my kettle broke " * 40}], long.responses)
    verdicts = judged(models, [long, short])
    assert [verdict.status for verdict in verdicts] == ["invalid"] * len(TEXTS) + ["ok"] * len(TEXTS)
    assert "more than policy.max_prompt_tokens = 64" in verdicts[0].detail


def test_implicit_reward_never_holds_two_models(models: dict[str, ModelRef], monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[Any] = []

    def counting(*args: Any, **kwargs: Any) -> Any:
        assert all(earlier() is None for earlier in loaded), "the model before is still in memory"
        model = load_policy(*args, **kwargs)
        loaded.append(weakref.ref(model))
        return model

    monkeypatch.setattr(implicit_reward, "load_policy", counting)
    judged(models, groups())
    assert len(loaded) == 2


def test_implicit_reward_outside_of_a_campaign_is_refused() -> None:
    with pytest.raises(
        ValueError, match="compares a campaign's policy with its start: use another kind outside a campaign"
    ):
        load_judge(JudgeConfig(kind="implicit_reward"), JudgeContext(Path("unused")))


JURY = JudgeConfig(kind="jury", jurors=[{"kind": "rule"}, {"kind": "implicit_reward", "batch_size": 64, "weight": 0.5}])


def test_implicit_reward_in_a_jury_abstains_until_the_policy_has_moved_and_votes_then(
    models: dict[str, ModelRef],
) -> None:
    asked = [Group("p", train_prompts()[0], tuple(enumerate(TEXTS[:2])))]
    for policy, status, votes in ((models["start"], "invalid", 1), (models["policy"], "ok", 2)):
        context = JudgeContext(Path("unused"), policy=policy, start=models["start"], limits=LIMITS)
        verdicts = load_judge(JURY, context).judge(asked)
        assert {verdict.status for verdict in verdicts if verdict.part == "implicit_reward"} == {status}
        assert f"of {votes} jurors" in verdicts[-1].detail
        assert verdicts[-1].status == "ok"
