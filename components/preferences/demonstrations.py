"""The tables from which pairs are built without a judge: demonstrations, and what earlier rounds answered."""

from collections import defaultdict

from components.artifacts import read_table
from components.data.messages import parse_messages
from components.preferences.demonstrated_pairs import Demonstrations, EarlierAnswers
from components.preferences.tables import read_groups
from components.records import AnsweredRound, Artifact


def read_demonstrations(table: Artifact) -> dict[str, Demonstrations]:
    """Return the demonstrations of round 0, by prompt_id."""
    answers: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for row in read_table(table).to_dict("records"):
        answers[row["prompt_id"], row["messages"]].append(row["answer"])
    return {name: Demonstrations(name, parse_messages(text), tuple(said)) for (name, text), said in answers.items()}


def read_answered(answered: AnsweredRound) -> EarlierAnswers:
    """Return the answers of an earlier round."""
    groups = read_groups(read_table(answered.prompts), read_table(answered.responses))
    return EarlierAnswers(answered.champion, {group.prompt_id: group for group in groups})
