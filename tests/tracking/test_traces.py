"""What a comparing judge said is on MLflow's page as traces: whole, sampled, each once, in the right store."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from components.artifacts import file_digest, read_record, write_json, write_table
from components.judges.protocol import Group, Opinion, conclude_pair, make_verdict
from components.preferences.tables import write_verdicts
from components.records import FileRecord, Manifest
from components.tracking import Tracked
from components.tracking.traces import MAX_COMPARISONS

PEOPLE = {
    "asked": 1,
    "labelled": 1,
    "both_bad": 0,
    "flagged": 0,
    "krippendorff_alpha": None,
    "agreement": None,
    "judges": {},
    "annotators": {"annabel": {"votes": 11}, "benno": {"votes": 3}},
}


@pytest.fixture
def judged(build: Any) -> Callable[[int, int], Path]:
    """Build a round whose responses a chat model compared, a number of prompts with two answers each."""

    def write(number: int, num_prompts: int) -> Path:
        directory, _ = build(number)
        here = directory / f"round-{number:03d}"
        names = [f"{number}-{prompt}" for prompt in range(num_prompts)]
        groups = [
            Group(name, [{"role": "user", "content": f"why {name}?"}], ((0, "because"), (1, "no idea")))
            for name in names
        ]
        verdicts = []
        for group in groups:
            verdicts += conclude_pair(
                "llm:m", group, 0, 1, forward=Opinion(1.0, "it answers"), backward=Opinion(0.0, "B answers")
            )
        verdicts.append(make_verdict("rule:r", groups[0], 0, Opinion(1.5)))
        write_verdicts(here / "collect_preferences", verdicts)
        prompts = [{"prompt_id": group.prompt_id, "messages": json.dumps(group.messages)} for group in groups]
        write_table(here / "generate_responses" / "prompts.parquet", pd.DataFrame(prompts))
        responses = [
            {"prompt_id": group.prompt_id, "sample_id": number, "text": text}
            for group in groups
            for number, text in group.responses
        ]
        write_table(here / "generate_responses" / "responses.parquet", pd.DataFrame(responses))
        return here

    return write


def traces(store: Any, tracked: Tracked) -> list[Any]:
    return list(store.client.search_traces(locations=[tracked.experiment_id], run_id=tracked.run_id))


def test_traces_hold_the_answers_each_order_and_the_conclusion(
    judged: Any, record_again: Callable[..., Tracked], store: Any
) -> None:
    judged(1, 1)
    (trace,) = traces(store, record_again(1))
    root, *orders = trace.data.spans
    assert (root.name, root.inputs) == ("llm:m", {"prompt": "why 1-0?", "answer 0": "because", "answer 1": "no idea"})
    assert root.outputs == {"score": 1.0, "status": "ok", "detail": ""}
    assert {span.name: (span.inputs["first"], span.outputs["score"], span.outputs["detail"]) for span in orders} == {
        "forward": ("answer 0", 1.0, "it answers"),
        "backward": ("answer 1", 0.0, "B answers"),
    }


def test_people_are_numbers_in_the_traces_and_in_the_files_of_a_round(
    judged: Any, record_again: Callable[..., Tracked], store: Any
) -> None:
    here = judged(1, 1) / "collect_preferences"
    group = Group("1-0", [{"role": "user", "content": "why 1-0?"}], ((0, "because"), (1, "no idea")))
    parts = ["by benno", "by annabel", "people/by annabel"]
    votes = [make_verdict("people", group, 0, Opinion(1.0), opponent_id=1, part=part) for part in parts]
    write_verdicts(here, [*votes, make_verdict("people", group, 0, Opinion(0.75), opponent_id=1)])
    write_json(here / "people.json", PEOPLE)
    manifest = read_record(Manifest, here / "MANIFEST.json")
    people = FileRecord(sha256=file_digest(here / "people.json"), num_bytes=1)
    write_json(here / "MANIFEST.json", manifest.model_copy(update={"files": manifest.files | {"people.json": people}}))
    tracked = record_again(1)
    (trace,) = traces(store, tracked)
    assert sorted(span.name for span in trace.data.spans[1:]) == ["by person 1", "by person 2", "people/by person 1"]
    place = Path(store.client.download_artifacts(tracked.run_id, ""))
    contents = {path.name: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    assert json.loads(contents["people.json"])["annotators"]["person 2"]["votes"] == 3
    said = [*contents.values(), repr(store.client.get_run(tracked.run_id).to_dictionary()).encode()]
    assert not [text for text in said if b"annabel" in text or b"benno" in text]


def test_traces_are_a_sample_and_each_is_there_once(
    judged: Any, record_again: Callable[..., Tracked], store: Any
) -> None:
    judged(1, MAX_COMPARISONS + 5)
    first = {trace.info.trace_id for trace in traces(store, record_again(1))}
    assert len(first) == MAX_COMPARISONS
    tracked = record_again(1)
    assert {trace.info.trace_id for trace in traces(store, tracked)} == first
    assert len(store.client.search_traces(locations=[tracked.experiment_id], max_results=100)) == MAX_COMPARISONS


def test_traces_of_a_recording_that_was_cut_off_are_made_up_for(
    judged: Any, record_again: Callable[..., Tracked], store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged(1, 3)
    sent = store.client.__class__.end_trace
    left = iter(range(2))

    def cut_off(self: Any, *arguments: Any, **keywords: Any) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        sent(self, *arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(store.client.__class__, "end_trace", cut_off)
        with pytest.raises(KeyboardInterrupt):
            record_again(1)
    assert len(traces(store, record_again(1))) == 3
    assert not store.running()


def test_traces_of_each_round_are_its_own_and_a_judge_that_scores_has_none(
    judged: Any, record: Callable[..., Tracked], record_again: Callable[..., Tracked], store: Any
) -> None:
    assert traces(store, record(1)) == []
    judged(2, 2)
    judged(3, 1)
    assert [len(traces(store, record_again(number))) for number in (2, 3)] == [2, 1]
