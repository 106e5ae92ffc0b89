"""Label Studio's JSON export of tasks with the tag Pairwise: `data`, and `annotations` with `selected`.

Source: Label Studio's template "Human Preferences collection for RLHF" and its page "Task format". The selected side is
`left` or `right`, in the order of `to_name`; several annotators vote. Predictions are a model's, and are not read.
Pairwise knows no tie, so that we write one, and that both are bad, as the choice of a control named `verdict`.
"""

from collections import Counter
from typing import Any

from components.data.conversations import conversation, with_context
from components.data.forms.form import CHAT, Form, Reading, nested, prompt_cell, text
from components.data.forms.judged import SCORES, JudgedPair, Judgement, judgement
from components.data.forms.rated import Choice
from components.data.forms.votes import Vote, pairs_by_votes
from components.data.messages import without_tools
from components.data.rows import Row, Rows
from components.data.seed_pair import SeedPair

PROMPTS = ("prompt", "instruction", "question", "input", "messages")
ANSWERS = (("answer1", "answer2"), ("text1", "text2"), ("response1", "response2"), ("response_1", "response_2"))
"""Keys of the two answers where those that the annotations name are not in the task's data."""
VERDICT = "verdict"
"""Name of the control whose choice is `tie` or `both_bad`."""


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
        votes: list[Vote] = [
            dict(zip((left, right), SCORES[_judgement(row, result)], strict=True)) for result in results
        ]
        pairs += pairs_by_votes(_prompt(row, data), answers, votes, choice, place=row.place, tag=_tag(data))
    return Reading(pairs, left_out=left_out)


def _read_judged(row: Row) -> JudgedPair | None:
    data, annotations = nested(row, "data"), nested(row, "annotations")
    if not isinstance(data, dict) or not isinstance(annotations, list):
        raise ValueError(f"{row.place}: a task needs the object data and the list annotations")
    results = [(_user(each), result) for each in annotations for result in _results(row, each)]
    if not results:
        return None
    left, right = _names(row, data, results[0][1])
    first, second = (text(row, f"data.{name}", data[name]) for name in (left, right))
    votes = tuple((user, _judgement(row, result)) for user, result in results)
    return JudgedPair(_prompt(row, data), first, second, _tag(data), votes)


def _user(annotation: dict[str, Any]) -> str | None:
    """Return who completed an annotation: an id, or an object with an email, as imports have it, or an id."""
    by = annotation.get("completed_by")
    if isinstance(by, dict):
        by = by.get("email") if by.get("id") is None else by.get("id")
    return None if by is None else str(by)


def _tag(data: dict[str, Any]) -> str | None:
    tag = data.get("tag")
    return tag if isinstance(tag, str) else None


def _results(row: Row, annotation: Any) -> list[dict[str, Any]]:
    """Return an annotator's selections; those that were skipped (`was_cancelled`) have none."""
    if not isinstance(annotation, dict):
        raise ValueError(f"{row.place}: an annotation is {type(annotation).__name__}, but must be an object")
    results = [] if annotation.get("was_cancelled") else annotation.get("result") or []
    objects = [each for each in results if isinstance(each, dict)]
    selections = [each for each in objects if each.get("type") == "pairwise"] or [
        each for each in objects if each.get("type") == "choices" and each.get("from_name") == VERDICT
    ]
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


def _judgement(row: Row, result: dict[str, Any]) -> Judgement:
    value = result.get("value")
    if result.get("type") == "choices":
        match value.get("choices") if isinstance(value, dict) else None:
            case ["tie"]:
                return "tie"
            case ["both_bad"]:
                return "both_bad"
            case choices:
                raise ValueError(f"{row.place}: {VERDICT} is {choices!r}, but must be tie or both_bad")
    selected = value.get("selected") if isinstance(value, dict) else None
    if selected not in ("left", "right"):
        raise ValueError(f"{row.place}: selected is {selected!r}, but must be left or right")
    return judgement(float(selected == "left"), float(selected == "right"))


def _prompt(row: Row, data: dict[str, Any]) -> Any:
    name = next((name for name in PROMPTS if data.get(name) is not None), None)
    if name is None:
        raise ValueError(f"{row.place}: data has no prompt (it has {', '.join(data)}): name it prompt")
    context: dict[str, Any] = {key: data[key] for key in ("system", "tools") if key in data}
    return with_context(conversation(data[name], f"{row.place} data.{name}"), Row(row.place, context))


def _write(pair: SeedPair) -> list[dict[str, Any]]:
    assert pair.chosen is not None
    assert pair.rejected is not None
    return [_write_judged(JudgedPair(pair.messages, pair.chosen, pair.rejected, pair.tag, ((None, "first"),)))]


def _write_judged(pair: JudgedPair) -> dict[str, Any]:
    _, tools = without_tools(pair.messages)
    data: dict[str, Any] = {"prompt": prompt_cell(pair.messages), "answer1": pair.first, "answer2": pair.second}
    data |= {"tools": tools} if tools else {}
    data |= {"tag": pair.tag} if pair.tag is not None else {}
    annotations = [_annotation(user, said) for user, said in pair.votes]
    return {"data": data, "annotations": annotations, "predictions": []}


def _annotation(user: str | None, said: Judgement) -> dict[str, Any]:
    """Return one person's annotation; Label Studio's import finds its own user by the email."""
    if said in ("tie", "both_bad"):
        result = {"type": "choices", "from_name": VERDICT, "to_name": "answer1", "value": {"choices": [said]}}
    else:
        selected = "left" if said == "first" else "right"
        names = {"from_name": "comparison", "to_name": "answer1,answer2"}
        result = {"type": "pairwise", **names, "value": {"selected": selected}}
    by = {} if user is None else {"completed_by": {"email": user}}
    return {"was_cancelled": False, **by, "result": [result]}


LABEL_STUDIO = Form(
    name="label-studio",
    title="Label Studio's JSON export of the tag Pairwise",
    holds=CHAT | {"tag"},
    columns=frozenset({"data", "annotations", "predictions"}),
    matches=lambda read: {"data", "annotations"} <= set(read.columns),
    read=_read,
    write=_write,
    read_judged=_read_judged,
    write_judged=_write_judged,
    not_read="predictions, data that is neither the prompt nor compared, and annotations but the comparison",
)
