"""Text to token ids, in one place: sampling, validation, scoring and training tokenise by the same two functions."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from components.data.messages import Messages
from components.models.tool_calls import render

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase


def prompt_ids(tokenizer: "PreTrainedTokenizerBase", messages: Messages) -> list[int]:
    """Return the token ids of a prompt in the model's chat template, up to where the assistant's answer begins.

    Raises:
        ValueError: The tokenizer returns no tokens.
    """
    ids = _templated(tokenizer, messages, add_generation_prompt=True)
    if not ids:
        raise ValueError(
            f"the tokenizer ({type(tokenizer).__name__}) returns no tokens for the prompt "
            f"{messages[-1]['content'][:60]!r}: check its vocabulary and chat template"
        )
    return ids


def response_ids(
    tokenizer: "PreTrainedTokenizerBase", messages: Messages, response: str, *, max_tokens: int
) -> list[int]:
    """Return the token ids of an answer in the chat template, including its end-of-turn token, cut to `max_tokens`.

    So an answer that was cut by the sampling limit ends without the end-of-turn token, as it was sampled.

    Raises:
        ValueError: The prompt's tokens are not a prefix of the conversation's, so the answer's cannot be separated.
    """
    prompt = prompt_ids(tokenizer, messages)
    whole = _templated(tokenizer, [*messages, {"role": "assistant", "content": response}], add_generation_prompt=False)
    if whole[: len(prompt)] != prompt:
        raise ValueError(
            "the prompt's tokens are not a prefix of the tokens of prompt and answer: check the chat template"
        )
    answer = whole[len(prompt) :]
    if tokenizer.eos_token_id in answer:
        last = len(answer) - answer[::-1].index(tokenizer.eos_token_id)
        answer = answer[:last]
    return answer[:max_tokens]


def stop_ids(tokenizer: "PreTrainedTokenizerBase", generation_config: "GenerationConfig | None") -> set[int]:
    """Return the tokens that end an answer: the tokenizer's end of sequence and those of the generation config."""
    configured = generation_config.eos_token_id if generation_config is not None else None
    tokens: Sequence[int] = configured if isinstance(configured, list) else [] if configured is None else [configured]
    return {int(token) for token in [*tokens, tokenizer.eos_token_id] if token is not None}


def _templated(tokenizer: "PreTrainedTokenizerBase", messages: Messages, *, add_generation_prompt: bool) -> list[int]:
    text = render(tokenizer, messages, add_generation_prompt=add_generation_prompt)
    return tokenizer(text, add_special_tokens=False)["input_ids"]
