"""`ratchet collect`, `pairs` and `calibrate` as a user runs them.

What they publish, and what they refuse in one line.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from components.artifacts import file_digest, publishing, read_json, read_table, write_json
from components.builtin.world import corpus
from components.campaign.lock import writing
from components.campaign.state import Champion, State, write_state
from components.data.preference_file import load_seed_pairs
from components.preferences.tables import read_verdicts
from components.records import ModelRef
from flows.cli import app
from tests.judges.chat_server import ChatServer, Fault, status

ASK = "Where is my order #4711?"
TEXTS = ["I am sorry. Your order is #4711.", "Go away.", "We sell many things."]
Ratchet = Callable[..., Result]


@pytest.fixture
def ratchet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ratchet:
    """Run a command in an empty directory; `config` is the YAML's content besides the campaign's name."""
    monkeypatch.setenv("RATCHET_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, config: dict[str, Any] | None = None) -> Result:
        Path("c.yaml").write_text(yaml.safe_dump({"campaign": "c", **(config or {})}))
        return CliRunner().invoke(app, [*arguments, "--config", "c.yaml", "--out", "out"])

    return run


def write_lines(name: str, *rows: dict[str, Any]) -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


def world_responses(count: int = 12) -> str:
    """Write three replies of the built-in world per prompt."""
    replies = corpus()[: 3 * count]
    rows = [
        {"prompt": replies[3 * n][0], "responses": [text for _, text in replies[3 * n : 3 * n + 3]]}
        for n in range(count)
    ]
    return write_lines("r.jsonl", *rows)


def test_collect_publishes_verdicts_and_pairs_that_a_campaign_reads_back(ratchet: Ratchet) -> None:
    told = ratchet("collect", world_responses(), config={"preferences": {"pairs": "all_pairs", "tag": "style"}})
    assert told.exit_code == 0, told.output
    counts = read_json(Path("out/collect.json"))
    assert (counts["prompts"], counts["responses"], counts["verdicts"]) == (12, 36, 36)
    pairs, verdicts = (
        read_table(Path("out/preferences.parquet")),
        read_verdicts(read_table(Path("out/verdicts.parquet"))),
    )
    assert len(verdicts) == 36
    assert counts["pairs"] == len(pairs) > counts["paired"]
    read_back = load_seed_pairs("out/preferences.jsonl", split="train").pairs
    assert [(json.dumps(pair.messages), pair.chosen, pair.rejected, pair.margin, pair.tag) for pair in read_back] == [
        (json.dumps(json.loads(row["prompt"])), row["chosen"], row["rejected"], row["margin"], "style")
        for row in pairs.to_dict("records")
    ]
    assert f"pairs      {len(pairs)}" in told.stdout


def test_collect_asks_the_costly_judge_and_pairs_again_takes_its_verdicts_for_no_conclusions(ratchet: Ratchet) -> None:
    config = {"judge": {"kind": "jury", "jurors": [{}, {}]}, "active": {"budget": 3}}
    told = ratchet("collect", world_responses(), config=config)
    assert told.exit_code == 0, told.output
    assert read_json(Path("out/collect.json"))["active"]["agreed"] == 3
    assert "costly     asked about 3 pairs: agreed on 3, turned 0, 0 tied" in told.stdout
    first = read_table(Path("out/preferences.parquet"))
    assert sorted(set(first["judge"])) == ["jury:majority", "rule:support_reply"]
    Path("out").rename("judged")
    assert ratchet("pairs", "judged", config=config).exit_code == 0
    again = read_table(Path("out/preferences.parquet"))
    assert list(again["pair_id"]) == list(first["pair_id"])
    assert set(again["judge"]) == {"jury:majority"}


def test_collect_again_says_that_it_is_done_and_replaces_what_other_inputs_made(ratchet: Ratchet) -> None:
    responses = world_responses()
    ratchet("collect", responses)
    before = file_digest(Path("out/MANIFEST.json"))
    assert "already done" in ratchet("collect", responses).stdout
    assert file_digest(Path("out/MANIFEST.json")) == before
    assert "already done" not in ratchet("collect", responses, config={"preferences": {"tag": "other"}}).stdout
    assert set(read_table(Path("out/preferences.parquet"))["tag"]) == {"other"}
    assert not list(Path().glob(".out.tmp*")) + list(Path().glob(".out.old*"))


def longer(request: dict[str, Any]) -> str:
    """Prefer the longer response."""
    texts = re.findall(
        r"<<data ([0-9a-f]{24})>>\n(.*?)\n<<end of data \1>>", request["messages"][0]["content"], re.DOTALL
    )
    (_, first), (_, second) = texts[1:]
    return json.dumps({"reason": "longer", "verdict": "A" if len(first) > len(second) else "B"})


def by_chat(server: ChatServer) -> dict[str, Any]:
    return {"kind": "llm", "endpoint": server.endpoint(concurrency=1, max_attempts=1)}


def test_collect_that_was_cut_off_goes_on_and_asks_nothing_twice(
    ratchet: Ratchet, chat_server: Callable[..., ChatServer]
) -> None:
    responses = write_lines("r.jsonl", {"prompt": ASK, "responses": TEXTS})
    faults: list[Fault | None] = [None, None, None, None, status(500)]
    server = chat_server(longer, faults=faults)
    cut_off = ratchet("collect", responses, config={"judge": by_chat(server)})
    assert cut_off.exit_code == 1
    assert len(cut_off.stderr.strip().splitlines()) == 1
    assert not Path("out").exists()
    assert len(server.requests) == 6, "three pairs in two orders"
    assert ratchet("collect", responses, config={"judge": by_chat(server)}).exit_code == 0
    assert len(server.requests) == 6 + 1, "the one that was not answered"
    again = ratchet("pairs", "out", config={"judge": by_chat(server), "preferences": {"soft_labels": "verdict"}})
    assert again.exit_code == 0, again.output
    (pair,) = read_table(Path("out/preferences.parquet")).to_dict("records")
    assert (pair["chosen"], pair["rejected"], pair["p"]) == (TEXTS[0], TEXTS[1], 1.0)
    assert len(server.requests) == 6 + 1, "no judge is asked to pair again"


def test_pairs_of_kept_verdicts_take_the_builder_and_the_margin_of_the_command(ratchet: Ratchet) -> None:
    ratchet("collect", world_responses())
    Path("out").rename("judged")
    assert ratchet("pairs", "judged", "--pairs", "all_pairs", "--min-margin", "1").exit_code == 0
    built, first = read_table(Path("out/preferences.parquet")), read_table(Path("judged/preferences.parquet"))
    assert len(built) > len(first)
    assert built["margin"].min() > 1
    assert set(first.loc[first["margin"] > 1, "pair_id"]) <= set(built["pair_id"])
    assert file_digest(Path("out/verdicts.parquet")) == file_digest(Path("judged/verdicts.parquet"))


def test_calibrate_measures_the_judge_against_the_labels(
    ratchet: Ratchet, chat_server: Callable[..., ChatServer]
) -> None:
    rows = [{"prompt": f"{ASK} {n}", "chosen": "a" * (8 + n), "rejected": "b", "tag": "style"} for n in range(6)]
    rows += [{"prompt": f"{ASK} {n}", "chosen": "a", "rejected": "b" * 9, "tag": "safety"} for n in range(2)]
    server = chat_server(longer)
    told = ratchet("calibrate", write_lines("labels.jsonl", *rows), config={"judge": by_chat(server)})
    assert told.exit_code == 0, told.output
    found = read_json(Path("out/calibration.json"))
    # Prompts 0 and 1 have a right and a wrong pair each, the other four a right one.
    assert found["quality"]["accuracy"]["value"] == pytest.approx((0.5 + 0.5 + 4) / 6)
    assert tuple(found["by_tag"][tag]["accuracy"]["value"] for tag in ("style", "safety")) == (1.0, 0.0)
    assert (found["rows"], found["judged"], len(server.requests)) == (8, 8, 16)
    assert (
        found["judge_health"]["position_consistency"]["value"]
        == found["judge_health"]["length_preference"]["value"]
        == 1.0
    )
    assert "soft_label_scale: " in told.stdout
    assert read_verdicts(read_table(Path("out/verdicts.parquet")))


def test_calibrate_refuses_a_label_that_is_no_probability_before_the_judge_is_asked(
    ratchet: Ratchet, chat_server: Callable[..., ChatServer]
) -> None:
    rows = [{"prompt": f"{ASK} {n}", "chosen": "a", "rejected": "b", "p": 7 if n == 2 else 0.9} for n in range(4)]
    server = chat_server(longer)
    told = ratchet("calibrate", write_lines("labels.jsonl", *rows), config={"judge": by_chat(server)})
    assert told.exit_code == 2, told.output
    assert "labels.jsonl line 3: p is 7, but must be a probability in [0, 1]" in told.stderr
    assert len(told.stderr.strip().splitlines()) == 1
    assert server.requests == []


def test_calibrate_fits_the_scale_of_a_judge_that_scores(ratchet: Ratchet) -> None:
    ratchet("collect", world_responses(30), config={"preferences": {"pairs": "all_pairs"}})
    lines = Path("out/preferences.jsonl").read_text().splitlines()
    flipped = [
        line.replace('"chosen"', '"x"').replace('"rejected"', '"chosen"').replace('"x"', '"rejected"')
        for line in lines[::4]
    ]
    Path("labels.jsonl").write_text("\n".join([*(line for number, line in enumerate(lines) if number % 4), *flipped]))
    Path("out").rename("judged")
    told = ratchet("calibrate", "labels.jsonl")
    assert told.exit_code == 0, told.output
    found = read_json(Path("out/calibration.json"))
    assert found["quality"]["accuracy"]["value"] == pytest.approx(0.75, abs=0.02)
    assert found["fitted_log_loss"] < min(found["log_loss"], 0.6931)
    assert f"soft_label_scale: {found['fitted_soft_label_scale']:.4g}" in told.stdout


def test_collect_with_a_campaign_gives_the_judge_its_models(ratchet: Ratchet, tmp_path: Path) -> None:
    start = ModelRef(round=0, base=str(tmp_path), base_digest="0" * 64, digest="0" * 64)
    pinned = tmp_path / "runs" / "mine"
    (pinned / "round-000" / "start").mkdir(parents=True)
    write_json(pinned / "round-000" / "start" / "start.json", {"model": start.model_dump(mode="json")})
    write_state(pinned, State(campaign="mine", champion=Champion(round=0, digest=start.digest)))
    config = {"judge": OWN_POLICY, "evaluation_judge": {"kind": "rule"}}
    told = ratchet("collect", world_responses(), "--campaign", "mine", config=config)
    assert told.exit_code == 0, told.output
    verdicts = read_verdicts(read_table(Path("out/verdicts.parquet")))
    assert any("the policy is still the start model" in verdict.detail for verdict in verdicts), (
        "its models were compared"
    )


OWN_POLICY = {"kind": "jury", "jurors": [{"kind": "rule"}, {"kind": "implicit_reward"}]}
MISTAKES: dict[str, tuple[list[str], dict[str, Any], str]] = {
    "no file": (["collect", "nowhere.jsonl"], {}, "/nowhere.jsonl does not exist"),
    "no responses": (["collect", "prompts.jsonl"], {}, "line 1 has no responses: write either responses"),
    "one response each": (["collect", "single.jsonl"], {}, "has no prompt with two or more responses"),
    "unknown key": (
        ["collect", "r.jsonl"],
        {"preferences": {"pair": "all"}},
        "unknown key preferences.pair; did you mean pairs?",
    ),
    "prompts of another world": (["collect", "foreign.jsonl"], {}, "rule support_reply"),
    "no reward model": (["collect", "r.jsonl"], {"judge": {"kind": "reward_model", "model": "./nowhere"}}, "nowhere"),
    "own policy": (
        ["collect", "r.jsonl"],
        {"judge": OWN_POLICY, "evaluation_judge": {"kind": "rule"}},
        "with --campaign",
    ),
    "unknown campaign": (["collect", "r.jsonl", "--campaign", "gone"], {}, "campaign gone does not exist in"),
    "labels of no verdicts": (
        ["collect", "r.jsonl"],
        {"preferences": {"soft_labels": "verdict"}},
        "judge.kind rule scores one response at a time",
    ),
    "no verdicts": (["pairs", "."], {}, "has no verdicts"),
    "unknown builder": (["pairs", ".", "--pairs", "best"], {}, 'preferences.pairs = "best": Input should be'),
    "negative margin": (["pairs", ".", "--min-margin", "-1"], {}, "preferences.min_margin = -1.0"),
    "no pairs": (["calibrate", "prompts.jsonl"], {}, "line 1 has no chosen"),
    "no labels": (["calibrate", "tied.jsonl"], {}, "no pair has a known label"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_wrong_input_is_one_line_exit_code_2_and_nothing_written(ratchet: Ratchet, mistake: str) -> None:
    prompt = corpus()[0][0]
    write_lines("r.jsonl", {"prompt": prompt, "responses": TEXTS})
    write_lines("foreign.jsonl", {"prompt": "Why is the sky blue?", "responses": TEXTS})
    write_lines("prompts.jsonl", {"prompt": prompt})
    write_lines("single.jsonl", {"prompt": prompt, "response": TEXTS[0]})
    write_lines("tied.jsonl", {"prompt": prompt, "chosen": "a", "rejected": "b", "margin": 0})
    arguments, config, says = MISTAKES[mistake]
    before = {path.name for path in Path().iterdir()} | {"c.yaml"}
    told = ratchet(*arguments, config=config)
    assert told.exit_code == 2, told.output
    assert says in told.stderr
    assert len(told.stderr.strip().splitlines()) == 1, told.stderr
    assert {path.name for path in Path().iterdir()} == before


@pytest.mark.parametrize("command", ["collect", "pairs", "calibrate"])
def test_second_process_on_one_directory_is_refused_by_name_and_the_first_goes_on(
    command: str, ratchet: Ratchet
) -> None:
    """It deleted the workspace of the running one, which then ended with FileNotFoundError, hours later."""
    assert ratchet("collect", world_responses()).exit_code == 0
    labelled = shutil.copy("out/preferences.jsonl", "labelled.jsonl")
    sources = {"collect": world_responses(3), "pairs": "out", "calibrate": str(labelled)}
    with publishing(Path("out"), stage="collect", version=1, key="k") as running, writing(Path("out").absolute()):
        (running.path / "verdicts.txt").write_text("hours of work")
        told = ratchet(command, sources[command])
        assert (running.path / "verdicts.txt").read_text() == "hours of work"
    assert told.exit_code == 2
    (line,) = told.stderr.splitlines()
    assert "/out is being written by another process (pid " in line
    assert line.endswith("); try again when it has finished")
    assert "host " in line


def test_directory_of_somebody_else_is_not_replaced(ratchet: Ratchet) -> None:
    Path("out").mkdir()
    Path("out/thesis.tex").write_text("years of work")
    told = ratchet("collect", world_responses())
    assert told.exit_code == 2
    assert "out exists and was not written by this command: choose another directory with --out" in told.stderr
    assert [path.name for path in Path("out").iterdir()] == ["thesis.tex"]


def test_collect_and_calibrate_show_the_judge_the_system_prompt(
    ratchet: Ratchet, chat_server: Callable[..., ChatServer]
) -> None:
    server = chat_server(longer)
    config = {"judge": by_chat(server), "policy": {"system_prompt": "Speak as a shop."}}
    responses = write_lines("r.jsonl", {"prompt": ASK, "responses": TEXTS})
    assert ratchet("collect", responses, config=config).exit_code == 0
    assert all("[system]\nSpeak as a shop." in request["messages"][0]["content"] for request in server.requests)
    (pair, *_) = load_seed_pairs("out/preferences.jsonl", split="train").pairs
    assert pair.messages[0] == {"role": "system", "content": "Speak as a shop."}
    Path("out").rename("judged")
    labels, before = (
        write_lines("l.jsonl", {"prompt": ASK, "chosen": "Wait.", "rejected": TEXTS[1]}),
        len(server.requests),
    )
    assert ratchet("calibrate", labels, config={"judge": by_chat(server)}).exit_code == 0
    assert ratchet("calibrate", labels, config=config).exit_code == 0, "another question than without the prompt"
    asked = [request["messages"][0]["content"] for request in server.requests[before:]]
    assert ["Speak as a shop." in question for question in asked] == [False, False, True, True]
