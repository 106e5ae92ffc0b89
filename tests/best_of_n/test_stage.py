import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from scipy import stats

from components.artifacts import file_digest, read_json, write_table
from components.best_of_n.stage import largest_kl, run
from components.builtin.world import held_out_prompts
from components.config import EvaluationConfig, JudgeConfig, PolicyConfig
from components.data.messages import format_messages
from components.data.prompts import make_prompt
from components.judges.registry import judge_digest
from components.models.loading import start_ref
from components.records import Artifact, BestOfNRequest, JudgeRef, JudgeUnavailable

NUM_PROMPTS = 40


@pytest.fixture
def request_of(starter_directory: Path, tmp_path: Path) -> Any:
    prompts = [make_prompt(messages) for messages in held_out_prompts()[:NUM_PROMPTS]]
    path = tmp_path / "held_out_prompts.parquet"
    columns = {"prompt_id": [p.prompt_id for p in prompts], "messages": [format_messages(p.messages) for p in prompts]}
    write_table(path, pd.DataFrame(columns))
    config = JudgeConfig(kind="rule", rule="support_reply")
    judge = JudgeRef(config=config, digest=judge_digest(config))

    def make(num_samples: int, **changes: Any) -> BestOfNRequest:
        values: dict[str, Any] = {
            "start": start_ref(starter_directory, revision="main"),
            "held_out": Artifact(path=path, digest=file_digest(path)),
            "limits": PolicyConfig(dtype="float32", max_prompt_tokens=64, max_response_tokens=40),
            "num_held_out": NUM_PROMPTS,
            "campaign_seed": 5,
            "audit_share": 0.0,
            "tag_column": "",
            "engine": "transformers",
            "batch_size": 0,
            "tensor_parallel_size": 1,
            "stop": (),
            "num_samples": num_samples,
            "judge": judge,
            "evaluation_judge": judge,
            "evaluation": EvaluationConfig(bootstrap_resamples=200),
            "seed": 3,
        }
        return BestOfNRequest(**values | changes)

    return make


def python_judge(path: Path, body: str) -> JudgeRef:
    path.write_text(f"def score(prompt, response):\n    {body}\n")
    config = JudgeConfig.model_validate({"kind": "python", "function": f"{path}:score"})
    return JudgeRef(config=config, digest=judge_digest(config))


def reached(request: BestOfNRequest, out: Path) -> dict[str, Any]:
    out.mkdir(parents=True)
    run(request, out)
    return read_json(out / "best_of_n.json")


def test_best_of_n_is_the_best_by_the_judge_and_wins_as_often_as_it_must(request_of: Any, tmp_path: Path) -> None:
    few, many = (reached(request_of(number), tmp_path / str(number) / "best_of_n") for number in (2, 16))
    assert few["mean_reward"]["start"] < few["mean_reward"]["challenger"] < many["mean_reward"]["challenger"]
    # The best of n answers beats one more with a probability of n / (n + 1), but for ties, which count half.
    for result in (few, many):
        number, rate = result["num_samples"], result["win_rate_vs_start"]
        spread = stats.norm.ppf(0.999) * math.sqrt(rate["value"] * (1 - rate["value"]) / NUM_PROMPTS)
        assert abs(rate["value"] - number / (number + 1)) < spread + 0.1
        assert rate["n"] == result["num_prompts"] == NUM_PROMPTS
    again = reached(request_of(2), tmp_path / "again" / "best_of_n")
    assert again == few


def test_best_of_n_picks_by_its_judge_and_is_measured_by_the_other(request_of: Any, tmp_path: Path) -> None:
    shortest = python_judge(tmp_path / "shortest.py", "return -len(response)")
    result = reached(request_of(8, judge=shortest), tmp_path / "shortest" / "best_of_n")
    assert result["mean_tokens"]["challenger"] < 0.7 * result["mean_tokens"]["start"]
    assert min(result["mean_reward"].values()) > -10  # and not minus a hundred characters


def test_best_of_n_judge_without_verdicts_picks_nothing(request_of: Any, tmp_path: Path) -> None:
    broken = python_judge(tmp_path / "broken.py", "return float('nan')")
    with pytest.raises(JudgeUnavailable, match=r"has no verdict on any answer to 40 of 40 prompts, such as: .*nan"):
        reached(request_of(2, judge=broken), tmp_path / "broken" / "best_of_n")
    assert not (tmp_path / "broken" / "best_of_n" / "best_of_n.json").exists()


@pytest.mark.parametrize(("number", "kl"), [(2, 0.193147), (4, 0.636294), (16, 1.835089)])
def test_best_of_n_kl_is_the_formulas(number: int, kl: float) -> None:
    assert largest_kl(number) == pytest.approx(kl, abs=1e-6)
