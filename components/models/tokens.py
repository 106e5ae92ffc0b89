"""Conversations to token ids, in one place: every stage renders the chat template and tokenises by these functions.

What a policy sampled is never rendered again: its token ids travel with it. Only text from outside is rendered, and it
is refused if its tokens do not say what the text says.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from typing import TYPE_CHECKING, Any

from components.config import PolicyConfig
from components.data.messages import Messages, without_tools
from components.models.tool_calls import render
from components.records import ModelRef

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROBE = "Yes"
"""An answer that shows what a chat template writes around answers."""
CLOCK = "strftime_now"
"""Function by which chat templates write the date, with a format of `datetime.strftime` (transformers)."""
DATE_CODES = "aAbBcdDeFGHIjmMpRSTuUVwWxXyYZ"
"""Letters of the format's codes."""


NO_PREFIX = "the prompt's tokens are no prefix of prompt and answer"
OTHER_TEXT = "the answer's tokens decode to another text"
NO_END = "the chat template writes no end token behind the answer"


class NotRendered(ValueError):
    """The chat template, or the tokenizer, makes other tokens of an answer than its own."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        """`NO_PREFIX`, `OTHER_TEXT` or `NO_END`."""


@dataclass(frozen=True)
class ChatTokenizer:
    """A tokenizer with its chat template and everything else that the template reads."""

    tokenizer: "PreTrainedTokenizerBase"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """`policy.chat_template_arguments`."""
    template_date: str = ""
    """Date (YYYY-MM-DD) that the template reads as today's; empty for the day of the call."""
    configured_stops: frozenset[int] = frozenset()
    """Stop tokens of the model's generation config."""

    @property
    def pad_id(self) -> int:
        """Id of the token that fills up rows."""
        pad: int = self.tokenizer.pad_token_id
        return pad

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end an answer.

        The tokenizer's end of sequence, those of the generation config, and the one that the chat template writes
        behind an answer: often they are not the same.
        """
        ids = [self.tokenizer.eos_token_id, self.end_of_turn]
        return self.configured_stops | {int(token) for token in ids if token is not None}

    @cached_property
    def end_of_turn(self) -> int | None:
        """First special token that the chat template writes behind an answer; None if it writes none."""
        ask = [{"role": "user", "content": PROBE}]
        try:
            whole = self.render([*ask, {"role": "assistant", "content": PROBE}], add_generation_prompt=False)
        except Exception:  # A template that refuses this conversation may still serve the campaign's.
            return None
        _, found, behind = whole.rpartition(PROBE)
        special = {token: id for token, id in self.tokenizer.get_added_vocab().items() if token.strip()}
        places = {behind.find(token): (-len(token), id) for token, id in special.items() if token in behind}
        return places[min(places)][1] if found and places else None

    def prompt_ids(self, messages: Messages) -> list[int]:
        """Return the token ids of a prompt in the chat template, up to where the assistant's answer begins.

        Raises:
            ValueError: The tokenizer returns no tokens.
            TemplateError: The template (jinja2) refuses the conversation.
        """
        ids = self.token_ids(self.render(messages, add_generation_prompt=True))
        if not ids:
            raise ValueError(
                f"the tokenizer ({type(self.tokenizer).__name__}) returns no tokens for the prompt "
                f"{messages[-1]['content'][:60]!r}: check its vocabulary and chat template"
            )
        return ids

    def response_ids(self, messages: Messages, response: str, *, max_tokens: int) -> list[int]:
        """Return the token ids of an answer that no policy of the campaign sampled.

        They are the answer's part of the rendered conversation, up to and with the first stop token: a sampled answer
        cannot go on behind one. An answer of more than `max_tokens` is cut there.

        Raises:
            NotRendered: The tokens of prompt and answer do not begin with the prompt's, or the answer's tokens decode
                to another text than the answer.
            TemplateError: The template (jinja2) refuses the conversation.
        """
        answer = self._behind_prompt(messages, response)
        end = next((place for place, token in enumerate(answer) if token in self.stop_ids), len(answer))
        text = self.text(answer[:end])
        if not is_same_text(text, response):
            raise NotRendered(OTHER_TEXT, f"{_shortened(text)!r} for {_shortened(response)!r}")
        return answer[: end + 1][:max_tokens]

    def text(self, token_ids: Sequence[int]) -> str:
        """Return the text of an answer's tokens, special tokens included: what is judged is what is trained on."""
        # Cleaning up spaces would make a text that the policy did not write.
        text: str = self.tokenizer.decode(
            list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text

    def render(self, messages: Messages, *, add_generation_prompt: bool) -> str:
        """Return a conversation as the chat template writes it.

        Raises:
            TemplateError: The template (jinja2) refuses the conversation, or leaves out something that concerns tools.
        """
        template = self._template(tools=without_tools(messages)[1] or self.arguments.get("tools"))
        return render(
            self.tokenizer,
            messages,
            add_generation_prompt=add_generation_prompt,
            chat_template=_frozen(template, self.template_date) if CLOCK in template else template,
            **self.arguments,
        )

    @property
    def writes_date(self) -> bool:
        """Whether the chat template asks for the date."""
        return CLOCK in self._template(tools=self.arguments.get("tools"))

    def _template(self, *, tools: Any) -> str:
        """Return the chat template; some models have another one for conversations with tools."""
        template: str = self.tokenizer.get_chat_template(tools=tools)
        return template

    def _behind_prompt(self, messages: Messages, response: str) -> list[int]:
        """Return the tokens behind the prompt's in the rendered conversation."""
        start = self.render(messages, add_generation_prompt=True)
        whole = self.render([*messages, {"role": "assistant", "content": response}], add_generation_prompt=False)
        prompt, both = self.prompt_ids(messages), self.token_ids(whole)
        if both[: len(prompt)] == prompt:
            return both[len(prompt) :]
        if whole.startswith(start):
            # A token spans the border in the whole text. The policy, which continues the prompt's tokens, cannot
            # sample it.
            return self.token_ids(whole[len(start) :])
        raise NotRendered(NO_PREFIX, "the chat template writes the prompt otherwise once an answer follows")

    def token_ids(self, text: str) -> list[int]:
        """Return the tokens of a rendered text."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def is_same_text(text: str, other: str) -> bool:
    """Return whether two texts differ in nothing but white space around them and their Unicode form."""
    return unicodedata.normalize("NFC", text).strip() == unicodedata.normalize("NFC", other).strip()


def load_chat(ref: ModelRef, policy: PolicyConfig) -> ChatTokenizer:
    """Load a model's tokenizer with its chat template, the campaign's arguments of it, and the model's stop tokens."""
    # Loads torch, which the reward model's check of a command line does not need.
    from components.models.loading import load_generation_config, load_tokenizer

    configured = load_generation_config(ref).eos_token_id
    stops = [] if configured is None else configured if isinstance(configured, list) else [configured]
    return ChatTokenizer(
        load_tokenizer(ref),
        policy.chat_template_arguments,
        policy.template_date,
        frozenset(int(token) for token in stops),
    )


def _frozen(template: str, template_date: str) -> str:
    """Return a chat template whose clock stands still.

    The function that it calls for the date cannot be replaced by an argument: transformers passes on plain data only.
    A macro of the function's name, in front of the template, is read in its place.
    """
    day = date.fromisoformat(template_date) if template_date else date.today()
    codes = [f"%{modifier}{letter}" for modifier in ("-", "") for letter in DATE_CODES]
    filters = "".join(f" | replace({code!r}, {day.strftime(code)!r})" for code in codes)
    # The plus sign keeps a line break with which the template begins.
    return f"{{%- macro {CLOCK}(format) -%}}{{{{ format{filters} }}}}{{%- endmacro +%}}{template}"


def _shortened(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."
