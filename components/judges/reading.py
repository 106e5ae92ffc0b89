"""How a reward model reads a conversation with a response; the same when it is trained and when it judges."""

from typing import Any

from components.data.messages import Messages


def conversation_ids(tokenizer: Any, messages: Messages, text: str) -> list[int]:
    """Token ids of a prompt with a response in the model's chat template, whole.

    Raises:
        TemplateError: The template (jinja2) refuses the conversation.
    """
    whole = tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": text}], tokenize=False)
    ids: list[int] = tokenizer(whole, add_special_tokens=False)["input_ids"]
    return ids


def longest_read(model_config: Any, max_tokens: int) -> int:
    """Tokens of the longest conversation that a model reads: what is configured, or less where the model itself ends earlier."""
    return min(max_tokens, getattr(model_config.get_text_config(), "max_position_embeddings", None) or max_tokens)
