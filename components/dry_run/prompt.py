"""A prompt as the model reads it: the rendered text with its special tokens, and the ids."""

from dataclasses import dataclass

from components.data.messages import Messages
from components.models.tokens import ChatTokenizer


@dataclass(frozen=True)
class ShownPrompt:
    """A prompt as text and as tokens."""

    text: str
    """As the chat template writes it, special tokens among it, up to where the answer begins."""
    tokens: list[tuple[int, str]]
    """(id, text) of each token."""
    stops: dict[str, int]
    """Tokens that end an answer, with their ids."""


def show_prompt(chat: ChatTokenizer, messages: Messages) -> ShownPrompt:
    """Return a prompt as the policy reads it."""
    ids = chat.prompt_ids(messages)
    tokenizer = chat.tokenizer
    stops = {str(tokenizer.convert_ids_to_tokens(token)): token for token in sorted(chat.stop_ids)}
    return ShownPrompt(
        chat.render(messages, add_generation_prompt=True), [(token, chat.text([token])) for token in ids], stops
    )
