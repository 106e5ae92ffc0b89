"""A preference file with known labels as what a judge is asked, and the judge's verdicts as what it said of each label."""

from collections.abc import Sequence
from dataclasses import dataclass

from components.artifacts import digest
from components.data.messages import Messages
from components.data.preference_file import SeedPair
from components.data.prompts import prompt_id
from components.judges.protocol import Group, Verdict, scores
from components.preferences.alone.calibration import Known
from components.preferences.verdict_table import conclusions


@dataclass(frozen=True)
class Question:
    """A pair with a known label, as it is shown to a judge."""

    group: Group
    """The two answers, in an order that says nothing of the label."""
    better: int
    """Sample of the known better one."""
    label: float
    tag: str


def questions(pairs: Sequence[SeedPair], *, default_tag: str) -> list[Question]:
    """The pairs of which one answer is known to be better, each once.

    A label is p where the file gives it, and certain where it does not; p = 0.5, a margin of 0 and equal texts are no label.
    """
    found: dict[str, Question] = {}
    for pair in pairs:
        label = 1.0 if pair.p is None else pair.p
        if pair.chosen is None or pair.rejected is None or pair.chosen.strip() == pair.rejected.strip() or pair.margin == 0 or label == 0.5:
            continue
        better, worse = (pair.chosen, pair.rejected) if label > 0.5 else (pair.rejected, pair.chosen)
        question = _question(pair.messages, better, worse, label=max(label, 1 - label), tag=pair.tag or default_tag)
        found.setdefault(question.group.prompt_id, question)
    return list(found.values())


def known(asked: Sequence[Question], verdicts: Sequence[Verdict]) -> list[Known]:
    """What the judge said of each question; one without a valid verdict is left out."""
    scored = scores(verdicts)
    said = {
        (verdict.prompt_id, verdict.sample_id): verdict.score
        for verdict in conclusions(verdicts)
        if verdict.opponent_id is not None and verdict.score is not None
    }
    found = []
    for question in asked:
        name, better, other = question.group.prompt_id, question.better, 1 - question.better
        if (name, better) not in scored or (name, other) not in scored:
            continue
        first, second = said.get((name, better)), said.get((name, other))
        probability = first if first is not None else None if second is None else 1 - second
        margin = scored[name, better] - scored[name, other]
        found.append(Known(prompt_id(question.group.messages), question.tag, question.label, margin, probability))
    return found


def _question(messages: Messages, better: str, worse: str, *, label: float, tag: str) -> Question:
    name = digest([prompt_id(messages), *sorted((better, worse))])[:16]
    texts = sorted((better, worse), key=lambda text: digest([name, text]))
    return Question(Group(name, messages, tuple(enumerate(texts))), texts.index(better), label, tag)
