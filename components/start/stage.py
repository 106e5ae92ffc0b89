"""The door of round 0: pins the start model, the judges and the prompts that every later round stands on."""

import shutil
from pathlib import Path

import pandas as pd

from components.artifacts import write_json, write_table
from components.builtin.starter import starter_model
from components.config import BUILTIN, JudgeConfig
from components.judges import judge_digest
from components.model_directory import check_model_directory, locate_model
from components.models import start_ref
from components.prompts import Prompt, split_prompts
from components.records import JudgeRef, StartRequest
from components.tokens import format_messages


def run(request: StartRequest, out: Path) -> None:
    """Writes `start.json`, `train_prompts.parquet`, `held_out_prompts.parquet` and, for the built-in starter, the model itself.

    Raises:
        ValueError: The model or the prompts cannot be used; one line with the remedy.
    """
    split = split_prompts(request.prompts)
    if split.digest != request.prompts_digest:
        raise ValueError("the prompts changed while the campaign was starting: start again")
    if request.policy.model == BUILTIN:
        shutil.copytree(starter_model(), out / "model")
        model = start_ref(out / "model", revision="main").model_copy(update={"base": "model"})
    else:
        path = locate_model(request.policy.model, request.policy.revision)
        check_model_directory(path)
        model = start_ref(path, revision=request.policy.revision)
    write_table(out / "train_prompts.parquet", _table(split.train))
    write_table(out / "held_out_prompts.parquet", _table(split.held_out))
    content = {
        "model": model.model_dump(mode="json"),
        "judge": _pinned(request.judge).model_dump(mode="json"),
        "evaluation_judge": _pinned(request.evaluation_judge).model_dump(mode="json"),
        "num_train_prompts": len(split.train),
        "num_held_out_prompts": len(split.held_out),
        "dropped_duplicates": split.dropped_duplicates,
        "dropped_held_out": split.dropped_held_out,
    }
    write_json(out / "start.json", content)


def _pinned(config: JudgeConfig) -> JudgeRef:
    return JudgeRef(config=config, digest=judge_digest(config))


def _table(prompts: tuple[Prompt, ...]) -> pd.DataFrame:
    rows = [(prompt.prompt_id, format_messages(prompt.messages)) for prompt in prompts]
    return pd.DataFrame(rows, columns=["prompt_id", "messages"])
