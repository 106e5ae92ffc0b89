"""Models on a suite: a challenger that wins and has forgotten is refused, and no model is asked twice."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from components.artifacts import file_digest, read_json, write_json, write_table
from components.builtin.world import held_out_prompts
from components.config import ConstraintsConfig, EvaluationConfig, JudgeConfig, PolicyConfig, RegressionConfig
from components.data.messages import format_messages
from components.data.prompts import make_prompt
from components.evaluation.stage import run as evaluate
from components.generation import engines
from components.judges.registry import judge_digest
from components.models.loading import load_policy
from components.promotion.regression import findings
from components.records import Artifact, EvaluateRequest, JudgeRef, ModelRef, PromotionTest
from components.regression.run import CACHE, regress

LIMITS = PolicyConfig(dtype="float32", max_prompt_tokens=64, max_response_tokens=40)
Regress = Callable[..., dict[str, Any]]


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models that were loaded, in order."""
    bases: list[str] = []

    def counting(ref: ModelRef, **kwargs: Any) -> Any:
        bases.append(ref.digest)
        return load_policy(ref, **kwargs)

    monkeypatch.setattr(engines, "load_policy", counting)
    return bases


@pytest.fixture
def suite(copying_task: Path) -> RegressionConfig:
    return RegressionConfig(tasks=(str(copying_task),), max_tokens=8)


@pytest.fixture
def regressed(suite: RegressionConfig, tmp_path: Path) -> Regress:
    """Return a function that has models solve the suite of copying, with a cache of its own."""

    def run(challenger: ModelRef, champion: ModelRef, **changes: Any) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "config": suite,
            "limits": LIMITS,
            "cache": tmp_path / CACHE,
            "engine": "transformers",
        }
        models = {"challenger": challenger, "champion": champion}
        return regress(models, batch_size=0, **settings | changes)

    return run


def evaluation(challenger: ModelRef, champion: ModelRef, place: Path) -> dict[str, Any]:
    """Compare two models on held-out prompts of the built-in world by its judge."""
    table, training, out = place / "held_out.parquet", place / "train.json", place / "evaluate"
    prompts = [make_prompt(messages) for messages in held_out_prompts()[:48]]
    rows = {"prompt_id": [each.prompt_id for each in prompts]}
    write_table(table, pd.DataFrame(rows | {"messages": [format_messages(each.messages) for each in prompts]}))
    write_json(training, {"num_pairs": 1, "eval": None})
    out.mkdir()
    judge = JudgeConfig(kind="rule", rule="support_reply")
    request = EvaluateRequest(
        challenger=challenger,
        champion=champion,
        start=champion,
        held_out=Artifact(path=table, digest=file_digest(table)),
        training=Artifact(path=training, digest=file_digest(training)),
        limits=LIMITS,
        num_held_out=48,
        round=1,
        campaign_seed=5,
        audit_share=0.0,
        test=PromotionTest(level=0.02, look_every=48),
        engine="transformers",
        batch_size=0,
        judge=JudgeRef(config=judge, digest=judge_digest(judge)),
        constraints=ConstraintsConfig(),
        evaluation=EvaluationConfig(bootstrap_resamples=200, num_samples=0),
        seed=5,
    )
    evaluate(request, out)
    return read_json(out / "evaluation.json")


def test_challenger_that_wins_and_has_forgotten_is_refused(
    champion: ModelRef, forgetful: ModelRef, regressed: Regress, suite: RegressionConfig, tmp_path: Path
) -> None:
    assert evaluation(forgetful, champion, tmp_path)["win_rate_vs_champion"]["low"] > 0.5
    results = regressed(forgetful, champion)
    task = results["tasks"]["copying"]
    assert task["solved"]["champion"] > 0.95
    assert task["solved"]["challenger"] < 0.05
    assert task["lost"] - task["won"] == pytest.approx(task["loss"]["value"] * task["num_items"])
    ((passed, reason),) = findings(results, suite)
    assert not passed
    assert "above the limit 0.05" in reason


def test_challenger_that_wins_and_has_kept_what_it_knew_passes(
    champion: ModelRef, faithful: ModelRef, regressed: Regress, suite: RegressionConfig, tmp_path: Path
) -> None:
    assert evaluation(faithful, champion, tmp_path)["win_rate_vs_champion"]["low"] > 0.5
    ((passed, reason),) = findings(regressed(faithful, champion), suite)
    assert passed, reason


def test_no_model_is_asked_twice_and_every_run_gives_the_same(
    champion: ModelRef, forgetful: ModelRef, faithful: ModelRef, regressed: Regress, loaded: list[str], tmp_path: Path
) -> None:
    first = regressed(forgetful, champion)
    kept = {path.name: path.read_bytes() for path in (tmp_path / CACHE).iterdir()}
    assert loaded == [forgetful.digest, champion.digest]
    assert regressed(forgetful, champion) == first
    regressed(faithful, champion)
    assert loaded == [forgetful.digest, champion.digest, faithful.digest]
    shutil.rmtree(tmp_path / CACHE)
    assert regressed(forgetful, champion) == first
    assert {path.name: path.read_bytes() for path in (tmp_path / CACHE).iterdir()} == kept


def test_equal_models_are_asked_once_and_lose_nothing(
    champion: ModelRef, regressed: Regress, loaded: list[str]
) -> None:
    task = regressed(champion, champion)["tasks"]["copying"]
    assert (task["loss"]["value"], task["lost"], task["won"]) == (0.0, 0, 0)
    assert 0 < task["loss"]["upper"] < 0.05
    assert loaded == [champion.digest]


def test_kept_outcomes_belong_to_the_items_and_to_how_they_were_asked(
    champion: ModelRef, regressed: Regress, suite: RegressionConfig, loaded: list[str], tmp_path: Path
) -> None:
    regressed(champion, champion)
    regressed(champion, champion, config=suite.model_copy(update={"max_loss": 0.2}))
    assert len(loaded) == 1, "the margin changes no answer"
    regressed(champion, champion, config=suite.model_copy(update={"max_tokens": 1}))
    regressed(champion, champion, limits=LIMITS.model_copy(update={"system_prompt": "camera"}))
    path = Path(suite.tasks[0])
    path.write_text(path.read_text().replace('"exact"', '"regex"').replace('"answer"', '"pattern"'))
    regressed(champion, champion)
    assert len(loaded) == 4


def test_damaged_outcomes_are_asked_again(
    champion: ModelRef, regressed: Regress, loaded: list[str], tmp_path: Path
) -> None:
    first = regressed(champion, champion)
    (kept,) = (tmp_path / CACHE).iterdir()
    kept.write_text(kept.read_text()[:200])
    assert regressed(champion, champion) == first
    content = json.loads(kept.read_text())
    content["outcomes"].popitem()
    kept.write_text(json.dumps(content))
    assert regressed(champion, champion) == first
    assert len(loaded) == 3


def test_answers_at_a_temperature_are_samples_that_repeat(
    champion: ModelRef, regressed: Regress, suite: RegressionConfig, tmp_path: Path
) -> None:
    hot = suite.model_copy(update={"temperature": 3.0})

    def answers(name: str, seed: int) -> dict[str, str]:
        results = regressed(champion, champion, config=hot, seed=seed, cache=tmp_path / name)
        assert results["tasks"]["copying"]["solved"]["champion"] < 0.9
        (kept,) = (tmp_path / name).iterdir()
        answers: dict[str, str] = read_json(kept)["answers"]
        return answers

    one = answers("one", 3)
    assert answers("again", 3) == one
    assert answers("other", 4) != one


def test_models_are_asked_by_vllm_too(
    champion: ModelRef, forgetful: ModelRef, regressed: Regress, loaded: list[str], stand_in_vllm: None
) -> None:
    solved = regressed(forgetful, champion, engine="vllm")["tasks"]["copying"]["solved"]
    assert solved["champion"] > 0.95
    assert solved["challenger"] < 0.05
    assert loaded == [], "another process has loaded them"


def test_prompts_that_are_too_long_are_named(champion: ModelRef, regressed: Regress) -> None:
    with pytest.raises(ValueError, match=r"regression task copying, item \d+: the prompt has \d+ tokens, more than"):
        regressed(champion, champion, limits=LIMITS.model_copy(update={"max_prompt_tokens": 3}))


def test_prompts_that_the_chat_template_refuses_are_named(
    champion: ModelRef, regressed: Regress, suite: RegressionConfig
) -> None:
    rows = [json.loads(line) for line in Path(suite.tasks[0]).read_text().splitlines()]
    rows[4]["messages"] = [{"role": "tool", "content": rows[4].pop("prompt")}]
    Path(suite.tasks[0]).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with pytest.raises(ValueError, match=r"item 5: the chat template refuses the prompt \(.*unknown role tool"):
        regressed(champion, champion)


def test_no_tasks_ask_nobody(champion: ModelRef, regressed: Regress, loaded: list[str]) -> None:
    assert regressed(champion, champion, config=RegressionConfig()) == {}
    assert loaded == []
