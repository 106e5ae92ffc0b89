"""Tasks of lm-evaluation-harness on local data: its prompts and metrics, our sampling, and what is refused."""

import sys
from pathlib import Path
from typing import Any

import pytest

from components.config import PolicyConfig, RegressionConfig
from components.promotion.regression import findings
from components.records import ModelRef
from components.regression.run import regress
from components.regression.suite import suite_digest
from tests.regression.conftest import CHOSEN, GENERATED, Suite, pairs_of_products

LIMITS = PolicyConfig(dtype="float32", max_prompt_tokens=64)


def test_harness_tasks_refuse_who_has_forgotten(
    champion: ModelRef, forgetful: ModelRef, harness_suite: Suite, tmp_path: Path
) -> None:
    config = harness_suite(shop_copying=GENERATED, shop_choice=CHOSEN)
    models = {"challenger": forgetful, "champion": champion}
    settings: dict[str, Any] = {"config": config, "limits": LIMITS, "seed": 3, "cache": tmp_path / "cache"}
    results = regress(models, engine="transformers", batch_size=0, **settings)
    copying, choice = (results["tasks"][f"lm-eval:{name}"] for name in ("shop_copying", "shop_choice"))
    assert copying["num_items"] == choice["num_items"] == 132
    assert copying["solved"]["champion"] > 0.95
    assert copying["solved"]["challenger"] < 0.05
    assert choice["solved"]["champion"] > 0.95
    assert choice["solved"]["challenger"] < 0.05
    assert [passed for passed, _ in findings(results, config)] == [False, False]
    assert results["digest"] == suite_digest(config)
    kept = {path.name: path.read_bytes() for path in (tmp_path / "cache").iterdir()}
    assert regress(models, engine="transformers", batch_size=0, **settings) == results
    again = settings | {"cache": tmp_path / "again"}
    assert regress(models, engine="transformers", batch_size=0, **again) == results
    assert {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()} == kept


def test_harness_answers_end_before_a_stop_string(champion: ModelRef, harness_suite: Suite, tmp_path: Path) -> None:
    """Every right answer has a second word, which a stop at the space before it cuts off."""
    until = GENERATED | {"generation_kwargs": {"until": [" "]}, "doc_to_target": "{{text.split()[0]}}"}
    results = regress(
        {"challenger": champion, "champion": champion},
        config=harness_suite(first_word=until),
        limits=LIMITS,
        engine="transformers",
        batch_size=0,
        seed=3,
        cache=tmp_path / "cache",
    )
    assert results["tasks"]["lm-eval:first_word"]["solved"]["champion"] > 0.95


def test_harness_digest_is_of_documents_and_settings(harness_suite: Suite) -> None:
    documents = [{"text": text} for text in pairs_of_products()]
    first = suite_digest(harness_suite(documents, copying=GENERATED))
    assert suite_digest(harness_suite(documents, copying=GENERATED)) == first
    assert suite_digest(harness_suite(documents, copying=GENERATED | {"doc_to_text": "Say {{text}}"})) != first
    assert suite_digest(harness_suite([{"text": "camera"}, *documents[1:]], copying=GENERATED)) != first


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"output_type": "loglikelihood_rolling"}, "output_type loglikelihood_rolling, and only generate_until and"),
        (CHOSEN | {"metric_list": [{"metric": "exact_match"}]}, "has the metric exact_match, and of a choice only acc"),
        ({"test_split": "nowhere"}, "lm-eval:mine cannot be loaded: "),
    ],
)
def test_harness_tasks_that_cannot_be_asked_are_refused(
    settings: dict[str, Any], message: str, harness_suite: Suite
) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        suite_digest(harness_suite(mine=GENERATED | settings))
    assert "\n" not in str(refused.value)


def test_harness_task_that_is_unknown_is_named(harness_suite: Suite) -> None:
    config = harness_suite(mine=GENERATED).model_copy(update={"tasks": ("lm-eval:no_such_task",)})
    with pytest.raises(ValueError, match="lm-evaluation-harness has no task no_such_task: correct the name"):
        suite_digest(config)


def test_harness_directory_that_is_missing_is_named() -> None:
    with pytest.raises(ValueError, match=r"harness_tasks = \./nowhere is not a directory"):
        suite_digest(RegressionConfig(tasks=("lm-eval:mine",), harness_tasks="./nowhere"))


def test_harness_that_is_not_installed_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(ValueError, match=r"not installed .* run `pip install 'dpo-ratchet\[harness\]'`"):
        suite_digest(RegressionConfig(tasks=("lm-eval:mine",)))
