"""Load the start of a reward model: a language model under a fresh head, or a reward model with its own."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from transformers import AutoModelForSequenceClassification

from components.builtin.starter import starter_model
from components.config import BUILTIN
from components.models.cpu.layers import speed_up
from components.models.directory import check_model_directory, locate_model
from components.models.loading import start_ref
from components.models.whole import LANGUAGE_HEADS, load_whole
from components.records import ModelRef

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HEAD = "score."
"""Prefix of the weights in the head of a decoder that scores texts, as transformers names them."""
BASES = ("ForCausalLM", "ForConditionalGeneration", "ForSequenceClassification")


def base_ref(model: str, *, revision: str) -> ModelRef:
    """Find the model that a reward model starts from.

    A hub model is downloaded, and the built-in starter trained, once.

    Raises:
        ValueError: It is missing or incomplete, or neither a language model nor a reward model with one output.
    """
    path = starter_model() if model == BUILTIN else locate_model(model, revision)
    check_model_directory(path)
    settings: dict[str, Any] = json.loads((path / "config.json").read_text(encoding="utf-8"))
    architecture = next(iter(settings.get("architectures") or ["no architecture"]))
    if not architecture.endswith(BASES):
        raise ValueError(
            f"base model {model} is not a language model ({architecture}): name an instruct model, or a reward model"
        )
    labels = len(settings["id2label"]) if "id2label" in settings else settings.get("num_labels", 2)
    if architecture.endswith("ForSequenceClassification") and labels != 1:
        raise ValueError(f"base model {model} has {labels} outputs, but a reward model has one (num_labels=1)")
    return start_ref(path, revision=revision if model != BUILTIN else "main")


class Headed(NamedTuple):
    """A model with one output."""

    model: "PreTrainedModel"
    is_fresh: bool
    """Whether the head is new, and so zero."""


def load_with_head(base: ModelRef, *, pad_id: int, dtype: torch.dtype, device: torch.device) -> Headed:
    """Load a model with one output, ready to be trained.

    A fresh head is zero: every reward is then 0, so the first loss is ln 2 whatever the pairs are, and chance decides
    nothing.

    Args:
        base: The model that it starts from.
        pad_id: Token that fills a batch up. It is written into the model's configuration, where a judge finds it, if
            there is none.
        dtype: Precision of the weights.
        device: Device of the weights.

    Raises:
        ValueError: The model lacks other weights than the head's.
    """
    model, missing = load_whole(
        AutoModelForSequenceClassification,
        base.base,
        name=f"base model {Path(base.base).name}",
        remedy="save the whole model",
        may_lack=(HEAD,),
        may_hold=LANGUAGE_HEADS,
        num_labels=1,
        dtype=dtype,
        revision=base.revision,
    )
    settings = model.config.get_text_config()
    if settings.pad_token_id is None:
        settings.pad_token_id = model.config.pad_token_id = pad_id
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    with torch.no_grad():
        for name in missing:
            model.get_parameter(name).zero_()
    speed_up(model)
    return Headed(model.to(device), bool(missing))


def rewards(model: Any, texts: list[list[int]], *, pad_id: int) -> torch.Tensor:
    """Return the reward of each conversation, (texts,), in float32.

    Conversations are padded on the right; the model does not look at the padding.
    """
    length = max(len(ids) for ids in texts)
    ids = torch.tensor([row + [pad_id] * (length - len(row)) for row in texts], device=model.device)
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in texts], device=model.device)
    found: torch.Tensor = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, 0].float()
    return found
