"""Which tokens of a conversation are the assistant's turns, for any chat template. Knows no data set and no loss.

The whole conversation is rendered and tokenised once: those are the tokens that are trained on. Where a turn begins is
what the template writes in front of an answer to the messages before it; it ends with the first end token. A turn whose
tokens say something else than its message, as when a template leaves out the thoughts of earlier turns, is not the
policy's to sample, and is not trained on.
"""

from typing import NamedTuple

from components.data.messages import Messages
from components.models.tokens import NO_END, NO_PREFIX, OTHER_TEXT, ChatTokenizer, NotRendered, is_same_text


class Turns(NamedTuple):
    """A conversation's tokens, up to the end token of its last turn."""

    token_ids: list[int]
    trained: list[bool]
    """Whether each token belongs to a turn that is trained on; its end token does."""
    num_turns: int
    """Turns that are trained on."""
    num_changed: int
    """Earlier turns that are not trained on, because the template writes something else than their message."""


def assistant_turns(chat: ChatTokenizer, messages: Messages, *, last_only: bool) -> Turns:
    """Return a conversation's tokens and mark those of the assistant's turns.

    Args:
        chat: The model's tokenizer and chat template.
        messages: The conversation; its last message is the assistant's, its first is not.
        last_only: Whether only the last turn is trained on.

    Raises:
        NotRendered: The last turn has no tokens that the policy could sample.
        TemplateError: The template (jinja2) refuses the conversation.
    """
    whole = chat.render(messages, add_generation_prompt=False)
    last = len(messages) - 1
    places = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    borders: dict[int, int] = {}
    num_turns = num_changed = 0
    for place in [last] if last_only else places:
        start = chat.render(messages[:place], add_generation_prompt=True)
        if whole.startswith(start):
            borders[place] = len(start)
        elif place == last:
            raise NotRendered(NO_PREFIX, "the chat template writes the prompt otherwise once an answer follows")
        else:
            num_changed += 1
    ids, starts = _tokens(chat, whole, list(borders.values()))
    trained, end = [False] * len(ids), 0
    for place, start_id in zip(borders, starts, strict=True):
        try:
            end = _end(chat, messages, place, ids, start_id, whole)
        except NotRendered:
            if place == last:
                raise
            num_changed += 1
            continue
        trained[start_id : end + 1] = [True] * (end + 1 - start_id)
        num_turns += 1
    return Turns(ids[: end + 1], trained[: end + 1], num_turns, num_changed)


def _tokens(chat: ChatTokenizer, whole: str, borders: list[int]) -> tuple[list[int], list[int]]:
    """Return the tokens of a text, and the number of tokens in front of each place of it.

    If a token spans one of the places, the parts are tokenised by themselves: the policy continues the tokens of a
    prompt, and cannot sample a token that begins in it.
    """
    ids = chat.token_ids(whole)
    before = [chat.token_ids(whole[:border]) for border in borders]
    if all(ids[: len(part)] == part for part in before):
        return ids, [len(part) for part in before]
    ids, starts = [], []
    for start, end in zip([0, *borders], [*borders, len(whole)], strict=True):
        ids += chat.token_ids(whole[start:end])
        starts.append(len(ids))
    return ids, starts[:-1]


def _end(chat: ChatTokenizer, messages: Messages, place: int, ids: list[int], start: int, whole: str) -> int:
    """Return the place of the end token of a turn whose tokens begin at `start`.

    Raises:
        NotRendered: There is none, or the tokens up to it do not say what the message says.
    """
    end = next((index for index in range(start, len(ids)) if ids[index] in chat.stop_ids), None)
    if end is None:
        raise NotRendered(NO_END, f"behind {messages[place]['content'][:60]!r}")
    text = chat.text(ids[start:end])
    if "tool_calls" in messages[place]:
        # A call has a form of its own in each template; what it must not do is reach into the next message.
        until = chat.render(messages[: place + 1], add_generation_prompt=False)
        if not whole.startswith(until) or text not in until:
            raise NotRendered(OTHER_TEXT, "the tokens of a tool call go on into the next message")
    elif not is_same_text(text, messages[place]["content"]):
        raise NotRendered(OTHER_TEXT, f"{text[:60]!r} for {messages[place]['content'][:60]!r}")
    return end
