"""Tasks of lm-evaluation-harness on local data: its prompts and metrics, our sampling, and what is refused."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.config import PolicyConfig, RegressionConfig
from components.promotion.regression import findings
from components.records import ModelRef
from components.regression.run import regress
from components.regression.suite import suite_digest
from tests.regression.conftest import pairs_of_products

LIMITS = PolicyConfig(dtype="float32", max_prompt_tokens=64)
GENERATED: dict[str, Any] = {
    "output_type": "generate_until",
    "doc_to_text": "{{text}}",
    "doc_to_target": "{{text}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}
CHOSEN: dict[str, Any] = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{text}}",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": 0,
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}
Suite = Callable[..., RegressionConfig]


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    """Return a function that writes tasks of the harness, with local documents, and configures them."""
    pairs = pairs_of_products()
    documents = [{"text": text, "choices": [text, pairs[place - 1]]} for place, text in enumerate(pairs)]

    def write(documents: list[dict[str, Any]] = documents, **tasks: dict[str, Any]) -> RegressionConfig:
        data = tmp_path / "documents.jsonl"
        data.write_text("".join(f"{json.dumps(row)}\n" for row in documents))
        for name, settings in tasks.items():
            place = {"task": name, "dataset_path": "json", "test_split": "test"}
            place["dataset_kwargs"] = {"data_files": {"test": str(data)}}
            (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(place | settings))
        names = tuple(f"lm-eval:{name}" for name in tasks)
        return RegressionConfig(tasks=names, harness_tasks=str(tmp_path), max_tokens=8)

    return write


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))


def test_harness_tasks_refuse_who_has_forgotten(
    champion: ModelRef, forgetful: ModelRef, suite: Suite, tmp_path: Path
) -> None:
    config = suite(shop_copying=GENERATED, shop_choice=CHOSEN)
    models = {"challenger": forgetful, "champion": champion}
    settings: dict[str, Any] = {"config": config, "limits": LIMITS, "seed": 3, "cache": tmp_path / "cache"}
    results = regress(models, engine="transformers", batch_size=0, **settings)
    copying, choice = (results["tasks"][f"lm-eval:{name}"] for name in ("shop_copying", "shop_choice"))
    assert copying["num_items"] == choice["num_items"] == 132
    assert copying["solved"]["champion"] > 0.95
    assert copying["solved"]["challenger"] < 0.05
    assert choice["solved"]["champion"] > choice["solved"]["challenger"] + 0.1
    assert [passed for passed, _ in findings(results, config)] == [False, False]
    assert results["digest"] == suite_digest(config)
    kept = {path.name: path.read_bytes() for path in (tmp_path / "cache").iterdir()}
    assert regress(models, engine="transformers", batch_size=0, **settings) == results
    again = settings | {"cache": tmp_path / "again"}
    assert regress(models, engine="transformers", batch_size=0, **again) == results
    assert {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()} == kept


def test_harness_answers_end_before_a_stop_string(champion: ModelRef, suite: Suite, tmp_path: Path) -> None:
    """Every right answer has a second word, which a stop at the space before it cuts off."""
    until = GENERATED | {"generation_kwargs": {"until": [" "]}, "doc_to_target": "{{text.split()[0]}}"}
    results = regress(
        {"challenger": champion, "champion": champion},
        config=suite(first_word=until),
        limits=LIMITS,
        engine="transformers",
        batch_size=0,
        seed=3,
        cache=tmp_path / "cache",
    )
    assert results["tasks"]["lm-eval:first_word"]["solved"]["champion"] > 0.95


def test_harness_digest_is_of_documents_and_settings(suite: Suite) -> None:
    documents = [{"text": text} for text in pairs_of_products()]
    first = suite_digest(suite(documents, copying=GENERATED))
    assert suite_digest(suite(documents, copying=GENERATED)) == first
    assert suite_digest(suite(documents, copying=GENERATED | {"doc_to_text": "Say {{text}}"})) != first
    assert suite_digest(suite([{"text": "camera"}, *documents[1:]], copying=GENERATED)) != first


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"output_type": "loglikelihood_rolling"}, "output_type loglikelihood_rolling, and only generate_until and"),
        (CHOSEN | {"metric_list": [{"metric": "exact_match"}]}, "has the metric exact_match, and of a choice only acc"),
        ({"test_split": "nowhere"}, "lm-eval:mine cannot be loaded: "),
    ],
)
def test_harness_tasks_that_cannot_be_asked_are_refused(settings: dict[str, Any], message: str, suite: Suite) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        suite_digest(suite(mine=GENERATED | settings))
    assert "\n" not in str(refused.value)


def test_harness_task_that_is_unknown_is_named(suite: Suite) -> None:
    config = suite(mine=GENERATED).model_copy(update={"tasks": ("lm-eval:no_such_task",)})
    with pytest.raises(ValueError, match="lm-evaluation-harness has no task no_such_task: correct the name"):
        suite_digest(config)


def test_harness_directory_that_is_missing_is_named() -> None:
    with pytest.raises(ValueError, match=r"harness_tasks = \./nowhere is not a directory"):
        suite_digest(RegressionConfig(tasks=("lm-eval:mine",), harness_tasks="./nowhere"))


def test_harness_that_is_not_installed_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(ValueError, match=r"not installed .* run `pip install 'dpo-ratchet\[harness\]'`"):
        suite_digest(RegressionConfig(tasks=("lm-eval:mine",)))
