import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from components.artifacts import digest, write_json
from components.campaign.config import pin_config
from components.config import CampaignConfig
from components.history.compare import RoundComparison, compare_rounds
from components.history.fresh_answers import fresh_answers
from components.history.names import RoundName, parse_round, parse_version
from components.history.rollback import roll_back
from flows.cli import app


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["compare", *arguments])


def compared(left: str, right: str) -> RoundComparison:
    return compare_rounds(parse_round(left), parse_round(right))


def measures(comparison: RoundComparison) -> dict[str, tuple[str, str]]:
    return {row.what: (row.left, row.right) for row in comparison.measures}


def digests(comparison: RoundComparison) -> dict[str, tuple[str, str]]:
    return {row.what: (row.left, row.right) for row in comparison.digests}


def test_compare_each_side_has_its_own_rounds_numbers(demo: Any) -> None:
    values = measures(compared("demo/2", "demo/3"))
    assert values["gate"] == ("refused", "promoted")
    assert values["reasons"] == ("lower bound 0.41 is not above 0.5\ntoo long", "lower bound 0.69 is above 0.5")
    assert values["wins vs champion"] == ("0.469 (0.406 to 0.531)", "0.750 (0.688 to 0.812)")
    assert values["KL to the start"] == ("9.00 (8.94 to 9.06)", "13.50 (13.44 to 13.56)")
    assert values["reward"] == ("1.875", "2.375")
    assert values["tokens"] == ("23.5", "24.5")
    assert values["pairs"] == ("82", "83")
    assert values["time: train"] == ("8.0 s", "12.0 s")
    assert values["time: all"] == ("14.0 s", "18.0 s")


def test_compare_names_the_champion_that_each_round_met_also_after_a_rollback(demo: Any) -> None:
    roll_back(demo.directory, 1)
    demo.round(5)
    values = measures(compared("demo/4", "demo/5"))
    assert values["champion then"] == ("round 3", "round 1")


def test_compare_digests_are_those_of_the_files(demo: Any) -> None:
    found = digests(compared("demo/1", "demo/4"))
    assert found["policy"] == (demo.policy_digest(1), demo.policy_digest(4))
    assert found["trained from"] == (demo.start_digest, demo.policy_digest(3))
    assert found["reference"] == (demo.start_digest, demo.policy_digest(3))
    assert found["train pairs"][0] != found["train pairs"][1]
    assert found["held-out prompts"][0] == found["held-out prompts"][1]


def test_compare_config_shows_a_change_that_was_accepted_in_between_and_no_other(demo: Any) -> None:
    changed = CampaignConfig.model_validate(
        demo.config | {"num_rounds": 7, "training": demo.config["training"] | {"beta": 0.3}}
    )
    pin_config(demo.directory, changed, accept_changes=True)
    demo.round(5)
    assert compared("demo/1", "demo/4").config == ()
    assert compared("demo/4", "demo/5").config == ("training.beta: 0.1 -> 0.3",)
    assert compared("demo/5", "demo/1").config == ("training.beta: 0.3 -> 0.1",)


def test_compare_two_campaigns_shows_their_configs_and_warns_when_measured_differently(
    demo: Any, make_campaign: Any
) -> None:
    other = make_campaign("other", seed=18)
    other.round(1)
    comparison = compared("demo/1", "other/1")
    assert comparison.config == ("seed: 17 -> 18",)
    assert comparison.warnings == ("win rates and rewards cannot be compared: the start models differ",)
    start = other.stage(0, "start") / "start.json"
    pinned = {"config": other.config["judge"], "digest": digest("another rule")}
    model = {"round": 0, "base": "model", "base_digest": demo.start_digest, "digest": demo.start_digest}
    write_json(start, {"model": model, "judge": pinned, "evaluation_judge": pinned})
    assert [warning.partition(": ")[2] for warning in compared("demo/1", "other/1").warnings] == [
        "the evaluation judges differ"
    ]
    assert compared("demo/1", "demo/3").warnings == ()


def test_compare_samples_are_shared_prompts_with_different_answers_first(demo: Any) -> None:
    samples = compared("demo/1", "demo/2").samples
    assert [(sample.prompt, sample.left.text, sample.right.text) for sample in samples] == [
        ("It [bold]broke[/bold].", "Sorry, says round 1.", "Sorry, says round 2."),
        ("Where is order 12?", "It is on its way.", "It is on its way."),
    ]


def test_compare_prints_both_sides_and_a_models_text_as_text(demo: Any) -> None:
    path = demo.stage(1, "evaluate") / "samples.parquet"
    import pandas as pd

    table = pd.read_parquet(path)
    table.loc[1, "challenger"] = "red: \x1b[31m[red]now"
    table.to_parquet(path)
    told = invoke("demo/1", "demo/2")
    assert told.exit_code == 0, told.output
    for text in (
        "demo/1",
        "demo/2",
        "promoted",
        "refused",
        "It [bold]broke[/bold].",
        "[red]now",
        "Sorry, says round 2.",
        "policy *",
    ):
        assert text in told.output, text
    assert "\x1b[31m" not in told.output
    assert "MLflow" not in told.output


def test_compare_links_mlflows_page_of_both_runs_when_there_is_a_server(
    demo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for round, experiment in ((1, "4"), (2, "5")):
        tracked = {"run_id": f"run{round}", "experiment_id": experiment, "model_version": round}
        write_json(demo.directory / f"round-00{round}" / "tracking.json", tracked)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@tracking:5000")
    runs, experiments = "%5B%22run1%22%2C%22run2%22%5D", "%5B%224%22%2C%225%22%5D"
    page = f"http://tracking:5000/#/compare-runs?runs={runs}&experiments={experiments}&workflowType=machine_learning"
    assert compared("demo/1", "demo/2").page == page
    assert compared("demo/1", "demo/3").page is None, "round 3 is not in MLflow"


def test_compare_says_what_the_win_rates_show_of_rounds_with_prompts_of_their_own(demo: Any) -> None:
    start, champion = compared("demo/1", "demo/4").findings
    # 0.75 - 0.703125, each with 0.0625 to either side: 0.0625 * sqrt(2) = 0.088.
    assert start == (
        "against the start, demo/4 wins 0.750 on its 256 prompts and demo/1 0.703 on its 256: a difference of 0.047 "
        "(95 % interval \u22120.042 to 0.135), no proof of a difference"
    )
    assert champion == (
        "win rates against the champion cannot be compared: demo/1 met the start model, demo/4 met round 3"
    )
    told = invoke("demo/1", "demo/4")
    assert "each round draws its own held-out prompts" in told.output
    assert "demo/4 met round 3" in told.output


def test_compare_uses_that_one_round_was_the_others_champion_or_that_both_met_the_same(demo: Any) -> None:
    *_, direct = compared("demo/1", "demo/3").findings
    assert direct.startswith("compared with each other: demo/3 wins 0.750 of the comparisons with demo/1 on 256")
    assert compared("demo/3", "demo/1").findings[-1] == direct
    *_, same = compared("demo/3", "demo/2").findings
    assert same.startswith(
        "against the same champion, demo/2 wins 0.469 on its 256 prompts and demo/3 0.750 on its 256"
    )
    assert same.endswith("demo/3 is better, beyond chance")


def test_compare_of_rounds_that_were_sampled_otherwise_says_nothing_of_win_rates(demo: Any) -> None:
    evaluation = demo.config["evaluation"] | {"top_p": 0.9}
    pin_config(
        demo.directory, CampaignConfig.model_validate(demo.config | {"evaluation": evaluation}), accept_changes=True
    )
    demo.round(5)
    comparison = compared("demo/4", "demo/5")
    assert comparison.findings == ()
    (warning,) = comparison.warnings
    assert "sampled by different laws" in warning
    confident = evaluation | {"top_p": 1.0, "confidence": 0.9}
    pin_config(
        demo.directory, CampaignConfig.model_validate(demo.config | {"evaluation": confident}), accept_changes=True
    )
    demo.round(6)
    assert compared("demo/4", "demo/6").findings == (
        "win rates cannot be compared: the intervals have different levels (evaluation.confidence)",
    )


def test_compare_samples_both_models_on_the_same_held_out_prompts(make_campaign: Any, starter_directory: Path) -> None:
    demo = make_campaign(policy={"max_prompt_tokens": 64, "max_response_tokens": 16})
    for round in (1, 2):
        demo.round(round)
        weights = demo.stage(round, "dpo_train") / "model"
        shutil.rmtree(weights)
        shutil.copytree(starter_directory, weights)
    told = invoke("demo/1", "demo/2", "--answers", "3")
    assert told.exit_code == 0, told.output
    prompts = [line for line in told.output.splitlines() if line.startswith("prompt: hello ")]
    assert len(set(prompts)) == 3
    names = [parse_round(name) for name in ("demo/1", "demo/2")]
    once, again = (fresh_answers(*names, number=3) for _ in range(2))
    assert once == again
    assert [answer.left for answer in once] != [answer.right for answer in once], "equal weights draw on their own"
    shutil.rmtree(demo.stage(2, "dpo_train") / "model")
    told = invoke("demo/1", "demo/2", "--answers", "3")
    assert told.exit_code == 2
    assert "round 2 of campaign demo has no weights" in told.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("demo", "demo/2"), "demo is not a round: use campaign/round"),
        (("demo/1", "demo/x"), "demo/x is not a round"),
        (("demo/1", "demo/0"), "demo/0 is not a finished round: the finished rounds of campaign demo are 1, 2, 3, 4"),
        (("demo/1", "nope/1"), "campaign nope does not exist in"),
    ],
)
def test_compare_of_no_finished_round_is_refused_in_one_line(demo: Any, arguments: tuple[str, str], said: str) -> None:
    told = invoke(*arguments)
    assert told.exit_code == 2
    assert said in told.stderr
    assert told.stderr.count("\n") == 1


def test_names_of_versions_are_read_as_mlflow_writes_them() -> None:
    forms = ("demo/3", "models:/demo/3", "demo@champion", "models:/demo@champion")
    assert [(name.model, name.version, name.alias) for name in map(parse_version, forms)] == [
        ("demo", 3, None),
        ("demo", 3, None),
        ("demo", None, "champion"),
        ("demo", None, "champion"),
    ]
    assert [str(parse_version(form)) for form in forms[::2]] == ["demo/3", "demo@champion"]
    assert str(RoundName("demo", 3)) == "demo/3"
    for wrong in ("demo", "demo/champion", "demo@", "runs:/demo/3", "demo/3/x"):
        with pytest.raises(ValueError, match="is not a model version"):
            parse_version(wrong)
