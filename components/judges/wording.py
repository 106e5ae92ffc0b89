"""Questions from templates: Jinja2, sandboxed, with the texts under judgement as data. Knows no judge."""

import functools
from collections.abc import Mapping

from jinja2 import StrictUndefined, Template
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
