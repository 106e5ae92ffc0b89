"""Names of regression tasks, checked before a file is looked for."""

import pytest
from pydantic import ValidationError

from components.config import RegressionConfig


@pytest.mark.parametrize("task", ["copying", "mine.jsonl", "data/mine.jsonl.gz", "lm-eval:mmlu_abstract_algebra"])
def test_tasks_of_each_kind_are_taken(task: str) -> None:
    assert RegressionConfig(tasks=(task,)).tasks == (task,)


@pytest.mark.parametrize("task", ["copy", "lm-eval:", "lm-eval:a b", "mine.txt", ""])
def test_tasks_of_no_kind_are_refused_with_the_names_there_are(task: str) -> None:
    with pytest.raises(
        ValidationError, match="is not a task: write arithmetic, copying, format, system_prompt, the path"
    ):
        RegressionConfig(tasks=(task,))


def test_task_that_is_named_twice_is_refused() -> None:
    with pytest.raises(ValidationError, match="'copying' is there twice"):
        RegressionConfig(tasks=("copying", "format", "copying"))
