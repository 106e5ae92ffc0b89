"""Label Studio's JSON export of tasks with the tag Pairwise: `data`, and `annotations` with `selected`.

Source: Label Studio's template "Human Preferences collection for RLHF" and its page "Task format". The selected side is
`left` or `right`, in the order of `to_name`; several annotators vote. Predictions are a model's, and are not read.
"""

from collections import Counter
from typing import Any

from components.data.conversations import conversation, with_context
from components.data.forms.form import CHAT, Form, Reading, nested, prompt_cell, text
from components.data.forms.rated import Choice
from components.data.forms.votes import Vote, pairs_by_votes
from components.data.messages import without_tools
from components.data.rows import Row, Rows
from components.data.seed_pair import SeedPair

PROMPTS = ("prompt", "instruction", "question", "input", "messages")
ANSWERS = (("answer1", "answer2"), ("text1", "text2"), ("response1", "response2"), ("response_1", "response_2"))
"""Keys of the two answers where those that the annotations name are not in the task's data."""


def _read(read: Rows, choice: Choice) -> Reading:
    pairs: list[SeedPair] = []
    left_out: Counter[str] = Counter()
    for row in read.rows:
        data, annotations = nested(row, "data"), nested(row, "annotations")
        if not isinstance(data, dict) or not isinstance(annotations, list):
            raise ValueError(
                f"{row.place}: a task needs the object data and the list annotations: export as JSON, not as JSON-MIN"
            )
        results = [result for each in annotations for result in _results(row, each)]
        if not results:
            left_out["no annotation that selects a side"] += 1
            continue
        left, right = _names(row, data, results[0])
        answers = {name: text(row, f"data.{name}", data[name]) for name in (left, right)}
        votes = [_vote(row, result, left, right) for result in results]
        tag = data.get("tag")
        tag = tag if isinstance(tag, str) else None
        pairs += pairs_by_votes(_prompt(row, data), answers, votes, choice, place=row.place, tag=tag)
    return Reading(pairs, left_out=left_out)


def _results(row: Row, annotation: Any) -> list[dict[str, Any]]:
    """Return an annotator's selections; those that were skipped (`was_cancelled`) have none."""
    if not isinstance(annotation, dict):
        raise ValueError(f"{row.place}: an annotation is {type(annotation).__name__}, but must be an object")
    results = [] if annotation.get("was_cancelled") else annotation.get("result") or []
    selections = [each for each in results if isinstance(each, dict) and each.get("type") == "pairwise"]
    if len(selections) > 1:
        raise ValueError(f"{row.place}: an annotation has {len(selections)} comparisons: export one per task")
    return selections


def _names(row: Row, data: dict[str, Any], result: dict[str, Any]) -> tuple[str, str]:
    """Return the keys of the left and the right answer in a task's data."""
    to_name = result.get("to_name")
    named = to_name.split(",") if isinstance(to_name, str) else to_name or []
    candidates = [tuple(str(name).strip() for name in named), *ANSWERS]
    for names in candidates:
        if len(names) == 2 and names[0] in data and names[1] in data:
            return names[0], names[1]
    raise ValueError(
        f"{row.place}: data has neither the keys {to_name!r} that the annotation names nor answer1 and answer2 "
        f"(it has {', '.join(data)}): rename the two answers"
    )


def _vote(row: Row, result: dict[str, Any], left: str, right: str) -> Vote:
    value = result.get("value")
    selected = value.get("selected") if isinstance(value, dict) else None
    if selected not in ("left", "right"):
        raise ValueError(f"{row.place}: selected is {selected!r}, but must be left or right")
    return {left: float(selected == "left"), right: float(selected == "right")}


def _prompt(row: Row, data: dict[str, Any]) -> Any:
    name = next((name for name in PROMPTS if data.get(name) is not None), None)
    if name is None:
        raise ValueError(f"{row.place}: data has no prompt (it has {', '.join(data)}): name it prompt")
    context: dict[str, Any] = {key: data[key] for key in ("system", "tools") if key in data}
    return with_context(conversation(data[name], f"{row.place} data.{name}"), Row(row.place, context))


def _write(pair: SeedPair) -> list[dict[str, Any]]:
    _, tools = without_tools(pair.messages)
    data: dict[str, Any] = {"prompt": prompt_cell(pair), "answer1": pair.chosen, "answer2": pair.rejected}
    data |= {"tools": tools} if tools else {}
    data |= {"tag": pair.tag} if pair.tag is not None else {}
    result = {
        "type": "pairwise",
        "from_name": "comparison",
        "to_name": "answer1,answer2",
        "value": {"selected": "left"},
    }
    return [{"data": data, "annotations": [{"was_cancelled": False, "result": [result]}], "predictions": []}]


LABEL_STUDIO = Form(
    name="label-studio",
    title="Label Studio's JSON export of the tag Pairwise",
    holds=CHAT | {"tag"},
    columns=frozenset({"data", "annotations", "predictions"}),
    matches=lambda read: {"data", "annotations"} <= set(read.columns),
    read=_read,
    write=_write,
    not_read="predictions, data that is neither the prompt nor compared, and annotations but the comparison",
)
