"""Checks of every prompt as the model reads it, before anything is sampled."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import TemplateError

from components.checks.leakage import NEAR, HeldOut
from components.config import ChecksConfig, JudgeConfig, PolicyConfig
from components.data.messages import Messages, with_system
from components.data.prompts import Prompt, PromptSplit
from components.judges.thoughts import tags_of_template
from components.models.tokens import PROBE, ChatTokenizer, NotRendered
from components.runtime import progress

REPORT_EVERY = 500

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What the model can read."""

    model: str
    """The model's name in the configuration."""
    num_embeddings: int
    """Number of token ids that the model knows."""
    max_prompt_tokens: int
    """`policy.max_prompt_tokens`."""


def check_prompts(chat: ChatTokenizer, prompts: Sequence[Prompt], limits: Limits, *, kind: str) -> None:
    """Render and tokenise every prompt.

    Args:
        chat: The policy's tokenizer.
        prompts: The prompts.
        limits: What the model can read.
        kind: `training` or `held-out`, for messages.

    Raises:
        ValueError: The chat template refuses a prompt, a token is unknown to the model, or all prompts are too long;
            one line that names the prompts and the remedy.
    """
    refused: list[tuple[Prompt, str]] = []
    lengths = []
    for number, prompt in enumerate(prompts, 1):
        try:
            ids = chat.prompt_ids(prompt.messages)
        except TemplateError as error:
            refused.append((prompt, " ".join(str(error).split())))
        else:
            _refuse_unknown_tokens(chat, prompt, ids, limits)
            lengths.append(len(ids))
        if number % REPORT_EVERY == 0:
            progress.report(number, len(prompts), f"{kind} prompts checked")
    if refused:
        prompt, cause = refused[0]
        raise ValueError(
            f"the chat template of {limits.model} refuses {len(refused)} of {len(prompts)} {kind} prompts "
            f"({cause[:200]}): {_places([prompt for prompt, _ in refused])}: change them, or the model's chat template"
        )
    _refuse_dropped_system(chat, prompts, limits.model, kind)
    long = sum(length > limits.max_prompt_tokens for length in lengths)
    if long == len(prompts):
        raise ValueError(
            f"all {len(prompts)} {kind} prompts are longer than policy.max_prompt_tokens = "
            f"{limits.max_prompt_tokens} (the shortest has {min(lengths)} tokens): raise it"
        )
    if long:
        log.warning(
            "%d of %d %s prompts are longer than policy.max_prompt_tokens = %d and will be skipped",
            long,
            len(prompts),
            kind,
            limits.max_prompt_tokens,
        )


def count_near_held_out(split: PromptSplit, checks: ChecksConfig) -> int | None:
    """Return how many training prompts are nearly the words of a held-out one; None if nobody asks for it.

    They stay: prompts of one template, such as sums of other numbers, are alike and may be meant so.
    """
    if checks.leakage.on_breach == "off":
        return None
    held_out = HeldOut((prompt.messages for prompt in split.held_out), similarity=checks.duplicate_similarity)
    near = 0
    for start in range(0, len(split.train), REPORT_EVERY):
        reasons = held_out.reasons_of([prompt.messages for prompt in split.train[start : start + REPORT_EVERY]])
        near += sum(reason == NEAR for reason in reasons)
        progress.report(start, len(split.train), "training prompts compared with the held-out ones")
    if near:
        log.warning(
            "%d of %d training prompts are nearly the same as a held-out one, so that the evaluation measures memory "
            "too: `ratchet validate PAIRS --held-out PROMPTS` names such rows",
            near,
            len(split.train),
        )
    return near


def check_template(chat: ChatTokenizer, messages: Messages, model: str) -> None:
    """Refuse a chat template that does not lead to where an answer begins, or that no answer can end.

    Raises:
        ValueError: One line with the remedy.
    """
    if not chat.stop_ids:
        raise ValueError(
            f"no token ends an answer of {model}: its tokenizer and its generation config name no end-of-sequence "
            "token, and its chat template writes none behind an answer: set eos_token in tokenizer_config.json"
        )
    try:
        led, bare = (chat.render(messages, add_generation_prompt=generates) for generates in (True, False))
        whole = chat.render([*messages, {"role": "assistant", "content": PROBE}], add_generation_prompt=False)
    except TemplateError:
        return  # named with the row by `check_prompts`, or an answer of these words is refused and sampled ones are not
    header, found, _ = whole.removeprefix(led).partition(PROBE)
    if led == bare and whole.startswith(led) and found and header.strip():
        raise ValueError(
            f"the chat template of {model} writes {header!r} in front of an answer, but not behind a prompt, so "
            "answers would be sampled where it belongs: end the template with "
            f"{{% if add_generation_prompt %}}{{{{ {header!r} }}}}{{% endif %}}"
        )


def check_system_prompt(chat: ChatTokenizer, policy: PolicyConfig) -> None:
    """Refuse a system prompt that the chat template refuses or leaves out.

    Raises:
        ValueError: One line with the remedy.
    """
    if not policy.system_prompt:
        return
    ask = [{"role": "user", "content": PROBE}]
    try:
        cause = "" if _reads_system(chat, with_system(ask, policy.system_prompt)) else "leaves it out"
    except TemplateError as error:
        cause = f"refuses it ({' '.join(str(error).split())[:200]})"
    if cause:
        raise ValueError(
            f"policy.system_prompt is set, but the chat template of {policy.model} {cause}: write its text in front of "
            "the prompts' first user messages and leave policy.system_prompt out, or use a model with a system role"
        )


def check_thoughts(chat: ChatTokenizer, judge: JudgeConfig, model: str) -> None:
    """Refuse tags of thoughts that are not those of the model, so that nothing would be hidden.

    Raises:
        ValueError: One line with the tags that its chat template shows.
    """
    template = str(chat.tokenizer.get_chat_template())
    tags = tags_of_template(template)
    for settings in (judge, *judge.jurors):
        if settings.hide_thoughts and tags is not None and settings.thought_tags[0] not in template + tags[0]:
            raise ValueError(
                f"hide_thoughts hides what stands between {list(settings.thought_tags)}, but the chat template of "
                f"{model} has other thoughts: set `thought_tags: {json.dumps(tags)}` for the judge"
            )


def unrenderable(chat: ChatTokenizer, messages: Messages) -> str | None:
    """Return why an answer from outside cannot be trained on in this chat template; None if it can."""
    try:
        chat.response_ids(messages, PROBE, max_tokens=1)
    except (NotRendered, TemplateError) as error:
        return " ".join(str(error).split())
    return None


def _refuse_dropped_system(chat: ChatTokenizer, prompts: Sequence[Prompt], model: str, kind: str) -> None:
    led = [prompt for prompt in prompts if any(message["role"] == "system" for message in prompt.messages)]
    if led and not _reads_system(chat, led[0].messages):
        raise ValueError(
            f"the chat template of {model} leaves out the system messages that {len(led)} of {len(prompts)} {kind} "
            f"prompts have: {_places(led)}: write them into the first user messages, or change the template"
        )


def _reads_system(chat: ChatTokenizer, messages: Messages) -> bool:
    """Whether the prompt that is rendered depends on the text of its system message."""
    others = [
        {**message, "content": f"{message['content']} {PROBE}"} if message["role"] == "system" else message
        for message in messages
    ]
    return chat.render(messages, add_generation_prompt=True) != chat.render(others, add_generation_prompt=True)


def _refuse_unknown_tokens(chat: ChatTokenizer, prompt: Prompt, ids: Sequence[int], limits: Limits) -> None:
    largest = max(ids)
    if largest >= limits.num_embeddings:
        raise ValueError(
            f"the tokenizer of {limits.model} gives token {largest} "
            f"({chat.tokenizer.convert_ids_to_tokens(largest)!r}) for {_places([prompt])}, but the model has only "
            f"{limits.num_embeddings} tokens: use the tokenizer that belongs to the model"
        )


def _places(prompts: Sequence[Prompt]) -> str:
    """Return where the first prompts stand, and how one of them begins."""
    text = " ".join(str(prompts[0].messages[-1]["content"]).split())
    named = [prompt.place or f"prompt {prompt.prompt_id}" for prompt in prompts[:3]]
    more = f" and {len(prompts) - 3} more" if len(prompts) > 3 else ""
    return f"{', '.join(named)}{more} ({text[:60]!r})"
