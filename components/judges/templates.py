"""The wording of the pairwise question: ours in conf/judges, or a user's file."""

from pathlib import Path

from jinja2 import TemplateError

from components.data.messages import Messages
from components.judges.chat.quoting import quoted
from components.judges.wording import compiled, pair_data, wording

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
        raise ValueError(f"judge.prompt {prompt} cannot be read ({cause}): use {' or '.join(OURS)}, or name a file") from None


def render(source: str, *, messages: Messages, answers: tuple[str, str]) -> str:
    """The pairwise question on two answers, the first as A.

    Raises:
        ValueError: The template cannot be rendered, or leaves out one of its slots; one line with the remedy.
    """
    notice, blocks = quoted(pair_data(messages, answers))
    try:
        text = compiled(source).render(blocks)
    except TemplateError as error:
        raise ValueError(f"the judge's template cannot be rendered ({' '.join(str(error).split())}): its slots are {_slots()}") from None
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
        render(read_template(prompt), messages=[{"role": "user", "content": "a question"}], answers=("one answer", "another"))
    except ValueError as error:
        raise ValueError(f"judge.prompt = {prompt}: {error}") from None


def _slots() -> str:
    return ", ".join(f"{{{{ {name} }}}}" for name in SLOTS)
