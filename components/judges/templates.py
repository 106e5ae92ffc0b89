"""The wording of a judge's question: ours in conf/judges, or a user's file. Jinja2, sandboxed, with the texts under judgement as data."""

import functools
from pathlib import Path

from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from components.builtin.world import conf_path
from components.judges.chat.quoting import quoted
from components.tokens import Messages

OURS = ("plain", "concise")
SLOTS = ("conversation", "answer_a", "answer_b")


def read_template(prompt: str) -> str:
    """The source of a template: one of ours by name, or a file.

    Raises:
        ValueError: There is no such file.
    """
    path = conf_path(f"judges/{prompt}.md") if prompt in OURS else Path(prompt).expanduser()
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise ValueError(f"judge.prompt {prompt} cannot be read ({cause}): use {' or '.join(OURS)}, or name a file") from None


def render(source: str, *, messages: Messages, answers: tuple[str, str]) -> str:
    """The pairwise question on two answers, the first as A.

    Raises:
        ValueError: The template cannot be rendered, or leaves out one of its slots; one line with the remedy.
    """
    conversation = "\n\n".join(f"[{message['role']}]\n{message['content']}" for message in messages)
    notice, blocks = quoted(dict(zip(SLOTS, (conversation, *answers), strict=True)))
    try:
        text = _compiled(source).render(blocks)
    except TemplateError as error:
        raise ValueError(f"the judge's template cannot be rendered ({' '.join(str(error).split())}): its slots are {_slots()}") from None
    missing = [name for name, block in blocks.items() if block not in text]
    if missing:
        raise ValueError(f"the judge's template leaves out {', '.join(missing)}: its slots are {_slots()}")
    return f"{notice}\n\n{text.strip()}"


@functools.cache
def _compiled(source: str) -> Template:
    return ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False).from_string(source)


def check_template(prompt: str) -> None:
    """Looks whether a template can be read and rendered.

    Raises:
        ValueError: It cannot; one line with the remedy.
    """
    try:
        render(read_template(prompt), messages=[{"role": "user", "content": "a question"}], answers=("one answer", "another"))
    except ValueError as error:
        raise ValueError(f"judge.prompt = {prompt}: {error}") from None


def _slots() -> str:
    return ", ".join(f"{{{{ {name} }}}}" for name in SLOTS)
