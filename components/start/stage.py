"""The door of round 0: pins the start model, the judges and the prompts of all later rounds."""

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from components.artifacts import MANIFEST, file_digest, read_json, write_json, write_table
from components.builtin.starter import starter_model
from components.config import BUILTIN, JudgeConfig, PolicyConfig
from components.data.columns import COLUMNS, format_columns
from components.data.messages import format_messages, without_system
from components.data.prompts import Prompt, PromptSplit, content_key, split_prompts
from components.generation.sampler import sample
from components.generation.sampling_params import SamplingParams
from components.judges.registry import judge_digest
from components.models.causality import check_causal
from components.models.directory import locate_model, text_files
from components.models.loading import give_memory_back, load_policy, pick_device, resolve_dtype, start_ref
from components.models.noise import refuse_noise
from components.models.tokens import ChatTokenizer, load_chat
from components.records import Artifact, JudgeRef, ModelRef, StartRequest
from components.regression.answering import encode
from components.regression.tasks import load_tasks
from components.start.demonstrations import publish_demonstrations, read_source
from components.start.measure import measure
from components.start.preflight import check_trainable
from components.start.prompts import (
    Limits,
    check_prompts,
    check_system_prompt,
    check_template,
    check_thoughts,
    count_near_held_out,
    unrenderable,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SFT_RESULT = "sft.json"
"""File beside a model that was trained on demonstrations, which says how."""


def run(request: StartRequest, out: Path) -> None:
    """Write `start.json`, `train_prompts.parquet`, `held_out_prompts.parquet` and, for the built-in starter, the model.

    Load the model and sample one token first, so that a broken model fails here and not in the first round.

    Raises:
        ValueError: The model or the prompts cannot be used; one line with the remedy.
    """
    split = split_prompts(
        request.prompts,
        request.policy.system_prompt,
        carries_columns=request.carries_columns,
        held_out_before=request.pins.held_out,
    )
    if split.digest != request.prompts_digest:
        raise ValueError("the prompts changed while the campaign was starting: start it again")
    if request.sft is not None:
        model = _trained_on_demonstrations(request, request.sft, out)
    elif request.policy.model == BUILTIN:
        shutil.copytree(starter_model(), out / "model", ignore=shutil.ignore_patterns(MANIFEST))
        model = start_ref(out / "model", revision="main").model_copy(update={"base": "model"})
    else:
        path = locate_model(request.policy.model, request.policy.revision)
        # A start checks local directories before it writes; a model of the hub is here only now.
        check_trainable(path, request.lora, request.soft_prompt)
        model = start_ref(path, revision=request.policy.revision)
    if request.pins.model_digest not in (None, model.digest):
        raise ValueError(
            f"the start model {request.policy.model} has other weights than the one that the finished rounds stand on: "
            "name that one, or choose another campaign name"
        )
    # A template that writes the date writes this one in every later stage, so that none reads other prompts.
    told = request.policy.template_date or request.pins.template_date
    policy = request.policy.model_copy(update={"template_date": told or date.today().isoformat()})
    here = model.model_copy(update={"base": str(out / model.base)})
    chat, loaded = _checked(here, policy, split, _judges(request))
    for task in load_tasks(request.regression):
        encode(chat, task, policy)
    write_table(out / "train_prompts.parquet", _table(split.train))
    # An evaluation takes the first prompts of the table, so their order must say nothing about them.
    # A system prompt leaves the order as it is, so that the same prompts are compared with and without it.
    own = request.policy.system_prompt
    held_out = tuple(sorted(split.held_out, key=lambda prompt: content_key(without_system(prompt.messages, own))))
    demonstrated = None
    if request.demonstrations is not None:
        answers = read_source(request.demonstrations, split, system_prompt=own, held_out_by=request.prompts.held_out_by)
        demonstrated = publish_demonstrations(answers, chat, request.demonstrations, policy, out)
    measured = None
    if request.probe is not None:
        with _naming(policy.model):
            if request.probe.engine == "vllm":
                loaded = None
                give_memory_back()
            measured = measure(request, request.probe, chat, held_out, ref=here, model=loaded)
    write_table(out / "held_out_prompts.parquet", _table(held_out))
    content = {
        "model": model.model_dump(mode="json"),
        "model_files": {file.name: file_digest(file) for file in text_files(Path(here.base))},
        "commits": {key: each.model_dump() for key, each in request.pins.commits.items()},
        "seed_pairs_digest": request.pins.seed_pairs_digest,
        "constraint_digest": request.pins.constraint_digest,
        "regression_digest": request.pins.regression_digest,
        "judge": _pinned(request.judge).model_dump(mode="json"),
        "evaluation_judge": _pinned(request.evaluation_judge).model_dump(mode="json"),
        "active_judge": _pinned(request.active_judge).model_dump(mode="json"),
        **({"holdout_judge": _pinned(request.holdout_judge).model_dump(mode="json")} if request.holdout_judge else {}),
        "num_train_prompts": len(split.train),
        "num_held_out_prompts": len(split.held_out),
        "dropped_duplicates": split.dropped_duplicates,
        "dropped_held_out": split.dropped_held_out,
        "dropped_conversations": split.dropped_conversations,
        # The built-in prompts come from templates.
        "near_held_out": None if request.prompts.train == BUILTIN else count_near_held_out(split, request.checks),
        "stop_tokens": {str(chat.tokenizer.convert_ids_to_tokens(token)): token for token in sorted(chat.stop_ids)},
        "template_date": policy.template_date if chat.writes_date else None,
        "unrenderable": unrenderable(chat, split.train[0].messages),
        "measured": measured,
        **({} if demonstrated is None else {"demonstrations": demonstrated}),
        **({} if request.sft is None else {"sft": read_json(request.sft.path / SFT_RESULT)}),
    }
    write_json(out / "start.json", content)


def _trained_on_demonstrations(request: StartRequest, trained: Artifact, out: Path) -> ModelRef:
    """Publish the model that was trained on demonstrations with round 0, and return it."""
    shutil.copytree(
        trained.path, out / "model", ignore=shutil.ignore_patterns(MANIFEST, SFT_RESULT, "metrics.jsonl", "plots")
    )
    check_trainable(out / "model", request.lora, request.soft_prompt)
    model = start_ref(out / "model", revision="main")
    if model.digest != trained.digest:
        raise ValueError(f"{trained.path} holds other weights than were trained: remove it, and start again")
    return model.model_copy(update={"base": "model"})


def _checked(
    model: ModelRef, policy: PolicyConfig, split: PromptSplit, judges: Sequence[JudgeConfig]
) -> tuple[ChatTokenizer, "PreTrainedModel | None"]:
    """Load the start model as every later stage will, read every prompt with it, and sample one token.

    Returns:
        Its tokenizer, and the model.
    """
    with _naming(policy.model):
        chat = load_chat(model, policy)
        loaded = load_policy(
            model, dtype=resolve_dtype(policy.dtype), device=pick_device(), quantization=policy.quantization
        )
        shortest = min(split.train, key=_length)
    check_template(chat, shortest.messages, policy.model)
    check_system_prompt(chat, policy)
    for judge in judges:
        check_thoughts(chat, judge, policy.model)
    limits = Limits(policy.model, loaded.get_input_embeddings().num_embeddings, policy.max_prompt_tokens)
    check_prompts(chat, split.train, limits, kind="training")
    check_prompts(chat, split.held_out, limits, kind="held-out")
    law = SamplingParams(temperature=1.0, top_p=1.0, top_k=1, max_new_tokens=1, stop_ids=frozenset())
    with _naming(policy.model):
        prompt = chat.prompt_ids(shortest.messages)
        sample(loaded, [prompt], seeds=[[0]], law=law, pad_id=chat.pad_id, batch_size=1, on_batch=lambda _: None)
        check_causal(loaded)
        refuse_noise(loaded)
    return chat, loaded


@contextlib.contextmanager
def _naming(model: str) -> Iterator[None]:
    """Turn any error into one line that names the model."""
    try:
        yield
    except Exception as error:
        cause = " ".join(str(error).split())[:500] or type(error).__name__
        raise ValueError(f"the start model {model} cannot be loaded or sampled from: {cause}") from error


def _length(prompt: Prompt) -> int:
    return sum(len(message["content"]) for message in prompt.messages)


def _judges(request: StartRequest) -> tuple[JudgeConfig, ...]:
    holdout = (request.holdout_judge,) if request.holdout_judge else ()
    return (request.judge, request.evaluation_judge, request.active_judge, *holdout)


def _pinned(config: JudgeConfig) -> JudgeRef:
    return JudgeRef(config=config, digest=judge_digest(config))


def _table(prompts: tuple[Prompt, ...]) -> pd.DataFrame:
    rows = [(prompt.prompt_id, format_messages(prompt.messages)) for prompt in prompts]
    table = pd.DataFrame(rows, columns=["prompt_id", "messages"])
    if any(prompt.columns for prompt in prompts):
        table[COLUMNS] = [format_columns(prompt.columns) for prompt in prompts]
    return table
