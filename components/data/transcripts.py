r"""Dialogues written as text in the form of Anthropic's HH data: `\n\nHuman: ...\n\nAssistant: ...`."""

from components.data.messages import Messages

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"


def is_transcript(text: str) -> bool:
    """Return whether a text begins with a human turn and has an assistant turn."""
    lines = text.lstrip()
    return lines.startswith("Human:") and ASSISTANT in lines


def parse_transcript(text: str, place: str) -> Messages:
    """Split a transcript into chat messages; consecutive turns of one speaker become one message.

    Raises:
        ValueError: The text is not a transcript.
    """
    if not is_transcript(text):
        raise ValueError(
            f"{place}: there is no prompt, and the text is not a transcript of 'Human:' and 'Assistant:' turns: "
            "add a column prompt, or use chat messages"
        )
    return _turns(text)


def parse_answers(chosen: str, rejected: str) -> tuple[Messages, str, str] | None:
    """Return what two transcripts share and their last answers, in half the time; None if they need a closer look.

    The shared turns are parsed once if the transcripts are equal up to their last answers, as those of HH are.
    """
    start, other = chosen.rfind(ASSISTANT), rejected.rfind(ASSISTANT)
    if start != other or start < 0 or chosen[:start] != rejected[:start] or not is_transcript(chosen):
        return None
    answers = chosen[start + len(ASSISTANT) :], rejected[start + len(ASSISTANT) :]
    before = _turns(chosen[:start])
    # An answer behind another turn of the assistant is one message with it.
    if before[-1]["role"] == "assistant" or HUMAN in answers[0] or HUMAN in answers[1]:
        return None
    return before, answers[0].strip(), answers[1].strip()


def _turns(text: str) -> Messages:
    """Split a text that begins with a human turn; consecutive turns of one speaker become one message."""
    messages: Messages = []
    for human_turn in f"\n\n{text.lstrip()}".split(HUMAN)[1:]:
        role = "user"
        for text_of_turn in human_turn.split(ASSISTANT):
            content = text_of_turn.strip()
            if messages and messages[-1]["role"] == role:
                messages[-1]["content"] = f"{messages[-1]['content']}\n\n{content}".strip()
            else:
                messages.append({"role": role, "content": content})
            role = "assistant"
    return messages
