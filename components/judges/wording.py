"""Questions from templates: Jinja2, sandboxed, with the texts under judgement as data. Ours are in conf/judges.

Knows no judge.
"""

import functools
from collections.abc import Mapping
from pathlib import Path

from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from components.config.shipped import conf_path
from components.data.messages import Messages
from components.judges.chat.quoting import quoted


def wording(name: str) -> str:
    """The source of a question that is ours to word, in conf/judges."""
    return conf_path(f"judges/{name}.md").read_text(encoding="utf-8")


def ask_about(source: str, *, data: Mapping[str, str], told: Mapping[str, str]) -> Messages:
    """A question about texts of others.

    Args:
        source: Jinja2 source, as of `wording`.
        data: What is judged, by slot; it stands between markers and is never an instruction.
        told: What we tell the judge, by slot, such as a principle.
    """
    notice, blocks = quoted(data)
    text = compiled(source).render({**told, **blocks})
    return [{"role": "user", "content": f"{notice}\n\n{text.strip()}"}]


@functools.cache
def compiled(source: str) -> Template:
    """The template of a source; it can do nothing but place texts."""
    return ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False).from_string(source)


def pair_data(messages: Messages, answers: tuple[str, str]) -> dict[str, str]:
    """The data of a question about two answers, the first as A."""
    first, second = answers
    return {"conversation": as_text(messages), "answer_a": first, "answer_b": second}


def as_text(messages: Messages) -> str:
    """A conversation as one text."""
    return "\n\n".join(f"[{message['role']}]\n{message['content']}" for message in messages)


OURS = ("plain", "concise")
SLOTS = ("conversation", "answer_a", "answer_b")


def read_template(prompt: str) -> str:
    """The source of a template: one of ours by name, or a file.

    Raises:
        ValueError: There is no such file.
    """
    try:
        return wording(prompt) if prompt in OURS else Path(prompt).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise ValueError(
            f"judge.prompt {prompt} cannot be read ({cause}): use {' or '.join(OURS)}, or name a file"
        ) from None


def render(source: str, *, messages: Messages, answers: tuple[str, str]) -> str:
    """The pairwise question on two answers, the first as A.

    Raises:
        ValueError: The template cannot be rendered, or leaves out one of its slots; one line with the remedy.
    """
    notice, blocks = quoted(pair_data(messages, answers))
    try:
        text = compiled(source).render(blocks)
    except TemplateError as error:
        raise ValueError(
            f"the judge's template cannot be rendered ({' '.join(str(error).split())}): its slots are {_slots()}"
        ) from None
    missing = [name for name, block in blocks.items() if block not in text]
    if missing:
        raise ValueError(f"the judge's template leaves out {', '.join(missing)}: its slots are {_slots()}")
    return f"{notice}\n\n{text.strip()}"


def check_template(prompt: str) -> None:
    """Looks whether a template can be read and rendered.

    Raises:
        ValueError: It cannot; one line with the remedy.
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
