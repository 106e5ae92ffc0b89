"""`ratchet run --dry-run` on real campaigns: it says what a round will do, and leaves no trace."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from components.builtin.world import corpus
from components.campaign.lock import locked
from components.config import CampaignConfig
from flows.cli import app
from tests.judges.chat_server import ChatServer

Make = Callable[..., CampaignConfig]


def dry_run(place: Path, config: CampaignConfig, *more: str) -> Any:
    path = place / "campaign.yaml"
    path.write_text(json.dumps(config.model_dump(mode="json", exclude_unset=True)))
    return CliRunner().invoke(app, ["run", str(path), "--dry-run", *more])


def rows(output: str) -> dict[str, list[str]]:
    """The cells of the stages' table, by stage."""
    cells = [re.split(r"  +", line.strip()) for line in output.splitlines()]
    return {row[0]: row[1:] for row in cells if len(row) == 4}


def content(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_dry_run_counts_shows_the_first_prompt_and_prices_a_judge_that_it_does_not_ask(
    tmp_path: Path, runs: Path, make_config: Make, chat_server: Callable[..., ChatServer]
) -> None:
    server = chat_server()
    prices = {"price_per_million_input": 1.0, "price_per_million_output": 4.0}
    config = make_config(
        judge={"kind": "llm", "endpoint": server.endpoint(max_tokens=100, **prices)},
        evaluation_judge={"kind": "llm", "endpoint": server.endpoint(model="unpriced")},
    )
    result = dry_run(tmp_path, config)
    assert result.exit_code == 0, result.output
    assert server.requests == []
    assert not runs.exists()
    lines = result.stdout.splitlines()
    assert "dry run of campaign small, round 1 from the start model: nothing is written there" in lines
    assert "prompts  1,536 to train on (24 a round), 512 held out (48 evaluated)" in lines
    # One pair of each of 24 prompts, of which a tenth measures; eight pairs a step.
    assert "pairs    about 22 to train on, in 3 steps (24 from 24 prompts, if the judge decides all)" in lines
    shown = lines[lines.index("the first prompt, as the model reads it:") + 1]
    assert re.fullmatch(r"  <\|user\|>.*<\|end\|><\|assistant\|>", shown)
    tokens = next(line for line in lines if " tokens: '<|user|>'=" in line)
    count, pairs = re.match(r"(\d+) tokens: (.*)", tokens).groups()  # type: ignore[union-attr]
    found = re.findall(r"('.*?'|\".*?\")=(\d+)", pairs)
    assert len(found) == int(count)
    assert "answers end at <|end|> (4)" in lines
    table = rows(result.stdout)
    assert table["generate"][0].endswith(" s")
    assert table["generate"][1].endswith(" GiB")
    assert table["generate"][2].startswith("96 of 96 responses in ")
    assert table["train"][2].startswith("4 of 3 steps, ")
    calls = [
        re.split(r"  +", line.strip()) for line in lines if re.match(r"(collect|evaluate) +(scripted|unpriced) ", line)
    ]
    (collect, evaluate) = calls
    # Six pairs of four responses in two orders, unless responses are equal; 48 held-out prompts in two orders.
    questions = int(collect[2])
    assert 24 * 12 * 0.8 <= questions <= 24 * 12
    prompt_tokens, answer_tokens = (int(cell.replace(",", "")) for cell in collect[3:5])
    assert answer_tokens == 100 * questions
    assert float(collect[5]) == pytest.approx((prompt_tokens + 4 * answer_tokens) / 1e6, abs=0.006)
    assert float(collect[6]) == pytest.approx((2 * prompt_tokens + 9 * answer_tokens) / 1e6, abs=0.006)
    assert 48 * 2 * 0.8 <= int(evaluate[2]) <= 48 * 2
    assert evaluate[5:] == ["unknown", "unknown"]
    assert table["evaluate"] == ["–", "–", "unknown, because the judge was not asked"]
    closing = next(line for line in lines if line.startswith("a round takes about "))
    assert re.fullmatch(
        r"a round [^,]+, without collect and evaluate, besides recording it; round 0 took .+ s", closing
    )


@pytest.mark.usefixtures("prefect_session")
def test_dry_run_of_a_campaign_that_runs_tries_its_next_round_and_touches_nothing(
    tmp_path: Path, runs: Path, make_config: Make
) -> None:
    from flows.iterative_dpo import iterative_dpo

    config = make_config(lora={"rank": 4})
    iterative_dpo(config)
    before = content(runs)
    with locked(runs / "small", by="a test"):
        held = content(runs)
        result = dry_run(tmp_path, config)
        assert content(runs) == held
    assert result.exit_code == 0, result.output
    assert re.search(r"^dry run of campaign small, round 2 from (round 1|the start model): ", result.stdout, re.M)
    assert "no chat model is asked" in result.stdout.splitlines()
    assert {name for name in content(runs) if name not in before} <= {"small/.lock"}
    assert not list(tmp_path.glob("ratchet-dry-run-*"))

    changed = dry_run(tmp_path, make_config(lora={"rank": 4}, seed=9))
    assert changed.exit_code == 2
    assert "the config of campaign small has changed (seed: 17 -> 9)" in changed.stderr


def test_dry_run_of_a_seeded_round_counts_the_data_set_and_the_evaluation(
    tmp_path: Path, runs: Path, make_config: Make, chat_server: Callable[..., ChatServer]
) -> None:
    """Round 1 samples nothing, yet its evaluation asks the judge."""
    server = chat_server()
    replies = corpus()
    seeds = [
        {"prompt": messages[0]["content"], "chosen": f"{first} {second}", "rejected": first}
        for (messages, first), (_, second) in zip(replies[:80:2], replies[1:80:2], strict=True)
    ]
    (tmp_path / "seeds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in seeds))
    config = make_config(
        preferences={"seed_pairs": str(tmp_path / "seeds.jsonl")},
        evaluation_judge={"kind": "llm", "endpoint": server.endpoint()},
    )
    result = dry_run(tmp_path, config)
    assert result.exit_code == 0, result.output
    told = re.search(
        r"^pairs    about (\d+) to train on, in (\d+) steps \((\d+) in the data set\)$", result.stdout, re.M
    )
    assert told is not None, result.stdout
    trained, steps, pairs = map(int, told.groups())
    assert 20 <= pairs <= 40
    assert (trained, steps) == (round(0.9 * pairs), -(-round(0.9 * pairs) // 8))
    assert re.search(r"^evaluate +scripted +\d+ ", result.stdout, re.M)
    assert "generate" not in rows(result.stdout)


@pytest.mark.parametrize("loss", ["orpo", "kto"])
def test_dry_run_takes_losses_without_a_reference_and_without_pairs(
    loss: str, tmp_path: Path, runs: Path, make_config: Make
) -> None:
    pairs = "unpaired" if loss == "kto" else "all_pairs"
    training = {"loss": loss, "learning_rate": 3e-4, "epochs": 1, "pairs_per_step": 8, "micro_batch_pairs": 8}
    result = dry_run(tmp_path, make_config(training=training, preferences={"pairs": pairs}))
    assert result.exit_code == 0, result.output
    assert rows(result.stdout)["train"][2].startswith("4 of ")


def test_dry_run_makes_the_checks_of_a_start(
    tmp_path: Path, runs: Path, make_config: Make, starter_directory: Path
) -> None:
    """A template that a start refuses must not look fine in a dry run."""
    model = tmp_path / "model"
    model.mkdir()
    for file in starter_directory.iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    template = model / "chat_template.jinja"
    template.write_text("{{ raise_exception('no prompts, please') }}")
    policy = {"model": str(model), "dtype": "float32", "max_prompt_tokens": 64, "max_response_tokens": 40}
    result = dry_run(tmp_path, make_config(policy=policy))
    assert result.exit_code in (1, 2)
    (line,) = result.stderr.splitlines()
    assert "refuses 1536 of 1536 training prompts (no prompts, please)" in line
    assert not runs.exists()
