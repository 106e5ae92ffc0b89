"""The registry of accepted user errors: each is one clear line on stderr and exit code 2, and nothing is written."""

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app

PROMPT = json.dumps({"prompt": "my kettle leaks . order # 4 7 1"})


PROMPTS = "campaign: c\nprompts: {{train: {}, held_out: ''}}"


class Case:
    """A config file, and whatever else is wrong."""

    def __init__(self, place: Path, starter: Path) -> None:
        self.place, self.starter = place, starter

    def write(self, name: str, text: str) -> Path:
        path = self.place / name
        path.write_text(text)
        return path

    def model(self, *, without: str) -> Path:
        copy = self.place / "model"
        shutil.copytree(self.starter, copy)
        for path in copy.glob(without):
            path.unlink()
        return copy


def unknown_key(case: Case) -> str:
    return "campaign: c\ntrainng: {}"


def out_of_range(case: Case) -> str:
    return "campaign: c\ntraining: {beta: 0}"


def bad_name(case: Case) -> str:
    return "campaign: ../c"


def missing_prompts(case: Case) -> str:
    return PROMPTS.format(case.place / "nowhere.jsonl")


def line_that_is_no_json(case: Case) -> str:
    path = case.write("p.jsonl", f"{PROMPT}\n{{oops\n")
    return PROMPTS.format(path)


def missing_column(case: Case) -> str:
    path = case.write("p.jsonl", '{"question": "why?"}\n')
    return PROMPTS.format(path)


def empty_prompts(case: Case) -> str:
    return PROMPTS.format(case.write("p.jsonl", ""))


def model_that_is_not_there(case: Case) -> str:
    return f"campaign: c\npolicy: {{model: {case.place}/nowhere}}"


def model_without_tokenizer(case: Case) -> str:
    return f"campaign: c\npolicy: {{model: {case.model(without='tokenizer*')}}}"


def model_without_chat_template(case: Case) -> str:
    copy = case.model(without="chat_template*")
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (copy / "tokenizer_config.json").write_text(json.dumps(settings))
    return f"campaign: c\npolicy: {{model: {copy}}}"


def pickled_model(case: Case) -> str:
    copy = case.model(without="*.safetensors")
    (copy / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    return f"campaign: c\npolicy: {{model: {copy}}}"


def unknown_rule(case: Case) -> str:
    return "campaign: c\njudge: {kind: rule, rule: suport_reply}"


LLM = "campaign: c\njudge: {{kind: llm, endpoint: {{url: 'http://127.0.0.1:1/v1', model: m, {}}}}}"


def key_that_is_not_set(case: Case) -> str:
    return LLM.format("api_key_from: 'env:RATCHET_NO_SUCH_KEY'")


def key_in_the_config(case: Case) -> str:
    return LLM.format("api_key_from: sk-0123456789")


def cost_limit_without_prices(case: Case) -> str:
    return LLM.format("max_cost: 1, price_per_million_input: 1")


def missing_seed_pairs(case: Case) -> str:
    return f"campaign: c\npreferences: {{seed_pairs: {case.place}/nowhere.jsonl}}"


def seed_pairs_without_rejected(case: Case) -> str:
    path = case.write("s.jsonl", '{"prompt": "a", "chosen": "b"}\n')
    return f"campaign: c\npreferences: {{seed_pairs: {path}}}"


def single_responses_for_a_loss_of_pairs(case: Case) -> str:
    path = case.write("s.jsonl", '{"prompt": "a", "completion": "b", "label": true}\n')
    return f"campaign: c\npreferences: {{seed_pairs: {path}}}"


def function_that_is_not_there(case: Case) -> str:
    return f"campaign: c\njudge: {{kind: python, function: '{case.place}/rewards.py:score'}}"


def function_that_cannot_be_imported(case: Case) -> str:
    path = case.write("rewards.py", "raise RuntimeError('first\\nsecond')\ndef score(response): 1")
    return f"campaign: c\njudge: {{kind: python, function: '{path}:score'}}"


def function_without_its_column(case: Case) -> str:
    path = case.write("rewards.py", "def score(response, answer): return response == answer")
    prompts = case.write("p.jsonl", "".join(json.dumps({"prompt": f"{n}?", "reply": n}) + "\n" for n in range(3)))
    held_out = "held_out: '', num_held_out: 1"
    return f"campaign: c\njudge: {{kind: python, function: '{path}:score'}}\nprompts: {{train: {prompts}, {held_out}}}"


def rule_of_seed_pairs_that_needs_a_column(case: Case) -> str:
    path = case.write("rules.py", "def leaks(response, secret): return secret in response")
    prompts = case.write("p.jsonl", "".join(json.dumps({"prompt": f"{n}?", "secret": "x"}) + "\n" for n in range(3)))
    pairs = case.write("s.jsonl", '{"prompt": "a", "chosen": "b", "rejected": "c", "secret": "x"}\n')
    sections = [
        f"prompts: {{train: {prompts}, held_out: '', num_held_out: 1}}",
        f"preferences: {{seed_pairs: {pairs}}}",
        f"constraints: {{function: '{path}:leaks'}}",
        "judge: {kind: python, function: 'trl.rewards:think_format_reward'}",
    ]
    return "\n".join(["campaign: c", *sections])


CASES = {
    function_that_is_not_there: "rewards.py does not exist: name a Python file, or a module",
    function_that_cannot_be_imported: "cannot be used: RuntimeError: first second (rewards.py line 1)",
    function_without_its_column: "requires answer, but the prompts' rows have reply: add the column",
    rule_of_seed_pairs_that_needs_a_column: (
        "requires secret, but the pairs of preferences.seed_pairs have no other columns"
    ),
    unknown_key: "unknown key trainng; did you mean training?",
    out_of_range: "training.beta = 0: Input should be greater than 0",
    bad_name: "is not a valid name",
    missing_prompts: "nowhere.jsonl",
    line_that_is_no_json: "line 2",
    missing_column: "question",
    empty_prompts: "p.jsonl",
    model_that_is_not_there: "nowhere",
    model_without_tokenizer: "has no tokenizer",
    model_without_chat_template: "has no chat template",
    pickled_model: "only pickled weights (pytorch_model.bin)",
    unknown_rule: "support_reply",
    key_that_is_not_set: "RATCHET_NO_SUCH_KEY is not set: set it to the API key",
    key_in_the_config: "endpoint.api_key_from must be env:NAME, the name of an environment variable",
    cost_limit_without_prices: "max_cost needs prices: set `price_per_million_input` and `price_per_million_output`",
    missing_seed_pairs: "nowhere.jsonl",
    seed_pairs_without_rejected: "rejected",
    single_responses_for_a_loss_of_pairs: (
        "has 1 single responses, but training.loss sigmoid needs pairs: set `training: {loss: kto}`"
    ),
}


@pytest.mark.parametrize("mistake", CASES, ids=lambda mistake: mistake.__name__)
def test_run_wrong_input_is_one_line_exit_code_2_and_nothing_written(
    mistake, tmp_path: Path, starter_directory: Path, monkeypatch
) -> None:
    monkeypatch.setenv("RATCHET_RUNS", str(tmp_path / "runs"))
    case = Case(tmp_path, starter_directory)
    config = case.write("campaign.yaml", mistake(case))
    told = CliRunner().invoke(app, ["run", str(config)])
    assert told.exit_code == 2, told.output
    assert CASES[mistake] in told.stderr
    assert len(told.stderr.strip().splitlines()) == 1, told.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("command", ["status", "report"])
def test_unknown_campaign_is_one_line_and_exit_code_2(command: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("RATCHET_RUNS", str(tmp_path / "runs"))
    told = CliRunner().invoke(app, [command, "nowhere"])
    assert told.exit_code == 2
    assert "campaign nowhere does not exist in" in told.stderr
    assert not (tmp_path / "runs").exists()
