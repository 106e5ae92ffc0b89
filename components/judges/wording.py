"""Questions from sandboxed Jinja2 templates, with the judged texts as data. The shipped ones are in conf/judges.

Knows no judge.
"""

import functools
from collections.abc import Mapping
from pathlib import Path

from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from components.config.shipped import conf_path
from components.data.messages import Message, Messages, called_name, message_text
from components.judges.chat.quoting import quote


def wording(name: str) -> str:
    """Return the source of a shipped question, from conf/judges."""
    return conf_path(f"judges/{name}.md").read_text(encoding="utf-8")


def ask_about(source: str, *, data: Mapping[str, str], instructions: Mapping[str, str]) -> Messages:
    """Build a question about texts that others wrote.

    Args:
        source: Jinja2 source, as from `wording`.
        data: The judged texts, by slot; they stand between markers and are never an instruction.
        instructions: Our own texts, by slot, such as a principle.
    """
    notice, blocks = quote(data)
    text = compile_template(source).render({**instructions, **blocks})
    return [{"role": "user", "content": f"{notice}\n\n{text.strip()}"}]


@functools.cache
def compile_template(source: str) -> Template:
    """Compile a source to a template that can only insert texts."""
    return ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False).from_string(source)


def pair_data(messages: Messages, answers: tuple[str, str]) -> dict[str, str]:
    """Return the data of a question about two answers, the first as A."""
    first, second = answers
    return {"conversation": as_text(messages), "answer_a": first, "answer_b": second}


def as_text(messages: Messages) -> str:
    """Format a conversation as one text."""
    return "\n\n".join(f"[{_speaker(messages, message)}]\n{message_text(message)}" for message in messages)


def _speaker(messages: Messages, message: Message) -> str:
    """Return a message's role; the result of a tool also names the tool and the call, of which there may be several."""
    role: str = message["role"]
    if role != "tool":
        return role
    named = (called_name(messages, message), message.get("tool_call_id"))
    return ": ".join([role, *([", ".join(known)] if (known := [text for text in named if text]) else [])])


OURS = ("plain", "concise")
SLOTS = ("conversation", "answer_a", "answer_b")


def read_template(prompt: str) -> str:
    """Return the source of a template: a shipped one by name, or a file.

    Raises:
        ValueError: The file cannot be read.
    """
    try:
        return wording(prompt) if prompt in OURS else Path(prompt).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ValueError(
            f"judge.prompt {prompt} cannot be read ({cause}): use {' or '.join(OURS)}, or name a file"
        ) from None


def render(source: str, *, messages: Messages, answers: tuple[str, str]) -> str:
    """Render the pairwise question about two answers, the first as A.

    Raises:
        ValueError: The template cannot be rendered, or leaves out one of its slots; one line with the remedy.
    """
    notice, blocks = quote(pair_data(messages, answers))
    try:
        text = compile_template(source).render(blocks)
    except TemplateError as error:
        raise ValueError(
            f"the judge's template cannot be rendered ({' '.join(str(error).split())}): it may use the slots {_slots()}"
        ) from None
    missing = [name for name, block in blocks.items() if block not in text]
    if missing:
        raise ValueError(f"the judge's template does not use {', '.join(missing)}: it must use the slots {_slots()}")
    return f"{notice}\n\n{text.strip()}"


def check_template(prompt: str) -> None:
    """Check that a template can be read and rendered.

    Raises:
        ValueError: It cannot be; one line with the remedy.
    """
    try:
        render(
            read_template(prompt),
            messages=[{"role": "user", "content": "a question"}],
            answers=("one answer", "another"),
        )
    except ValueError as error:
        raise ValueError(f"judge.prompt = {prompt}: {error}") from None


def _slots() -> str:
    return ", ".join(f"{{{{ {name} }}}}" for name in SLOTS)
