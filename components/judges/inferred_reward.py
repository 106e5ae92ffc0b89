"""The inferred reward judge: what a campaign has learned to prefer, frozen in a directory that any campaign can name.

    r(x, y) = beta (log pi_champion(y|x) - log pi_start(y|x)), summed over the response's tokens,

up to a term of the prompt alone (Rafailov et al. 2023, arXiv 2305.18290, equation 5). If the campaign learned from
demonstrations, this is the reward that they imply: inverse reinforcement learning.

Responses are rendered by the champion's own chat template, whoever sampled them. One that is too long gets an invalid
verdict, never a score of its start.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from transformers import AutoConfig

from components import artifacts
from components.config import JudgeSettings, PolicyConfig
from components.data.messages import Messages
from components.judges.implicit_reward import ImplicitRewardJudge, Models, Read, Tokens, read_tokens
from components.judges.inferred_reward_directory import read_saved
from components.judges.protocol import Group, Judge, JudgeContext, Opinion
from components.judges.registry import AnyJudge
from components.judges.reward_model_directory import longest_read
from components.models.directory import text_files
from components.models.loading import tensors_digest
from components.models.tokens import ChatTokenizer
from components.records import ModelRef

NO_LIMIT = 2**31
"""Tokens that no response has."""


def load(config: JudgeSettings, context: JudgeContext) -> Judge:
    """Return the judge of a saved reward; the context is not used."""
    saved = read_saved(config)
    limits = saved.limits if config.dtype == "auto" else saved.limits.model_copy(update={"dtype": config.dtype})
    models = Models(saved.policy, saved.start, limits, saved.beta)
    name = f"inferred_reward:{Path(config.model).name}"
    settings = AutoConfig.from_pretrained(saved.policy.base, trust_remote_code=False)
    read = _reading_whole(longest_read(settings, config.max_tokens))
    return ImplicitRewardJudge(name, models, batch_size=config.batch_size, sampled=_no_tokens, read=read)


def digest(config: AnyJudge) -> str:
    """Return the identity of a saved reward: its tensors, tokenizers, templates and scale, but not its path."""
    saved = read_saved(config)
    content = [_content(ref) for ref in (saved.policy, saved.start)]
    return artifacts.digest({"kind": config.kind, "models": content, "limits": saved.limits, "beta": saved.beta})


def _content(ref: ModelRef) -> dict[str, str]:
    base = Path(ref.base)
    adapter = [] if ref.adapter is None else sorted(ref.adapter.glob("*.safetensors"))
    tensors = {
        "tensors": tensors_digest(sorted(base.glob("*.safetensors"))),
        "adapter": tensors_digest(adapter) if adapter else "",
    }
    return tensors | {file.name: artifacts.file_digest(file) for file in text_files(base)}


def _no_tokens(groups: Sequence[Group]) -> Mapping[tuple[str, str], Tokens]:
    """Return nothing: a policy that judges here may have another tokenizer than the reward."""
    return {}


def _reading_whole(longest: int) -> Read:
    """Return the reader of responses that is limited by prompt and response together, and cuts nothing."""

    def read(
        chat: ChatTokenizer, messages: Messages, text: str, sampled: Tokens | None, limits: PolicyConfig
    ) -> Tokens | Opinion:
        any_length = limits.model_copy(update={"max_prompt_tokens": longest, "max_response_tokens": NO_LIMIT})
        tokens = read_tokens(chat, messages, text, None, any_length)
        if isinstance(tokens, Tokens) and len(tokens.prompt) + len(tokens.response) > longest:
            count = len(tokens.prompt) + len(tokens.response)
            return Opinion(None, f"prompt and response have {count} tokens, and the inferred reward reads {longest}")
        return tokens

    return read
