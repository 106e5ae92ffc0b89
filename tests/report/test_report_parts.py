import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token
from matplotlib.figure import Figure

from components import report
from components.artifacts import read_json, write_json
from components.campaign.files import read_campaign
from components.plots.curves import Training, draw_curves, panels, running_mean
from components.plots.figures import PAPER
from components.plots.stages import bin_edges, evaluation_plots, outcome_counts, training_plot
from components.records import Interval
from components.report.campaign import write_report
from components.report.charts import training_charts
from components.report.round import escape_markdown, round_markdown
from components.report.tables import decisions, measure_rows, round_rows
from components.report.wording import comparison, decimal, duration


def parse_markdown(text: str) -> list[Token]:
    """All tokens, inline ones too, as a page that allows tables and HTML would see them."""
    blocks = MarkdownIt("commonmark").enable("table").parse(text)
    return [token for block in blocks for token in (block, *(block.children or ()))]


def cell_texts(text: str) -> list[list[str]]:
    """The cells' visible texts, row by row, over all tables."""
    rows: list[list[str]] = []
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type == "tr_open":
            rows.append([])
        elif token.type == "inline" and rows and token.level > 3:
            rows[-1].append("".join(child.content for child in token.children or ()))
    return rows


def test_round_markdown_of_hostile_answers_keeps_them_data(finished_campaign: Any) -> None:
    text = round_markdown(finished_campaign.directory, 2)
    kinds = {token.type for token in parse_markdown(text)}
    assert not kinds & {"html_block", "html_inline", "image", "link_open"}
    rows = [row for row in cell_texts(text) if "vs champion: " in row[-1]]
    assert [len(row) for row in rows] == [5, 5, 5]
    assert rows[0][0] == "Please | help ↵ <script>alert('x')</script>"
    assert rows[0][3] == "<script>alert('x')</script> ![x](https://example.org/x.png) a | b ↵ second line reward 2.75"


def test_round_markdown_shows_a_win_a_loss_and_a_tie(finished_campaign: Any) -> None:
    outcomes = [
        row[-1] for row in cell_texts(round_markdown(finished_campaign.directory, 3)) if "vs champion: " in row[-1]
    ]
    assert outcomes == [
        "vs champion: win, vs start: win",
        "vs champion: loss, vs start: win",
        "vs champion: tie, vs start: unjudged",
    ]


def test_round_markdown_of_a_refused_round_gives_reasons_numbers_and_counts(finished_campaign: Any) -> None:
    text = round_markdown(finished_campaign.directory, 2)
    assert text.startswith("# Round 2 of unit-campaign: refused\n")
    assert "The challenger wins 0.481 of the comparisons with the champion (round 1) on 256 held-out prompts" in text
    assert "(95 % interval 0.441 to 0.521): no proof of a difference." in text
    items = [
        "".join(child.content for child in token.children or ())
        for token in parse_markdown(text)
        if token.type == "inline"
    ]
    assert {"lower bound 0.4410 <= 0.5", "length ratio 1.71 > 1.5"} <= set(items)
    rows = {row[0]: row[1:] for row in cell_texts(text)}
    assert rows["mean reward"] == ["0.861", "1.361", "1.901"]
    assert rows["win rate vs start"] == ["0.820 (0.785 to 0.855), 256 prompts"]
    assert rows["first and last loss"][0].startswith("0.6931, ")
    assert rows["352"] == ["0", "310", "35", "7", "2.0 %"]
    assert "- identical after truncation: 4\n- duplicate: 3" in text
    assert "run `run2`, no model version" in text


def test_round_markdown_of_an_unfinished_round_says_what_is_left(three_rounds: Any) -> None:
    three_rounds.generate(4)
    three_rounds.collect(4)
    text = round_markdown(three_rounds.directory, 4)
    assert "# Round 4 of unit-campaign: unfinished\n\nStill to do: validate, train, evaluate, promote." in text
    assert "Comparisons" not in text


def test_round_markdown_of_an_unknown_round_is_refused(finished_campaign: Any) -> None:
    with pytest.raises(ValueError, match=r"round 9 does not exist in .*: its rounds are 1, 2, 3"):
        round_markdown(finished_campaign.directory, 9)


@pytest.mark.parametrize(
    "text",
    [
        "**bold** _it_ `code`",
        "[a](b) <b>c</b>",
        "a\\|b &lt; ~~c~~",
        "see https://example.org/ www.example.org a@b.org",
        "# no heading",
    ],
)
def test_escape_markdown_of_markup_shows_it_unchanged(text: str) -> None:
    tokens = parse_markdown(escape_markdown(text))
    assert {token.type for token in tokens} <= {"paragraph_open", "inline", "text", "text_special", "paragraph_close"}
    assert "".join(token.content for token in tokens if token.type in ("text", "text_special")) == text


BREAKS = ["\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"]


@pytest.mark.parametrize("line_break", BREAKS, ids=ascii)
def test_escape_markdown_of_a_line_break_stays_in_its_cell(line_break: str) -> None:
    """A lone carriage return ended the row, and the answer went on as a heading of our page."""
    text = f"fine{line_break}# CHAMPION: round 9 was promoted{line_break}| a | b |"
    page = f"| prompt | answer |\n| --- | --- |\n| p | {escape_markdown(text)} |\n"
    assert cell_texts(page)[-1] == ["p", "fine ↵ # CHAMPION: round 9 was promoted ↵ | a | b |"]
    assert "heading_open" not in {token.type for token in parse_markdown(page)}
    assert page.splitlines() == page.split("\n")[:-1]


@pytest.mark.parametrize(
    "text", ["- a", "+ a", "1. a", "12) a", "---", "- - -", "-", "1.", "-0.5 nats", "1.5 GiB", "."]
)
def test_escape_markdown_at_the_beginning_of_an_item_begins_no_other_block(text: str) -> None:
    tokens = parse_markdown(f"- {escape_markdown(text)}\n- next\n")
    kinds = [token.type for token in tokens]
    assert kinds.count("list_item_open") == 2
    assert not {"hr", "ordered_list_open"} & set(kinds)
    assert "".join(token.content for token in tokens if token.type in ("text", "text_special")) == f"{text}next"


def test_escape_markdown_leaves_nothing_that_steers_a_terminal() -> None:
    assert escape_markdown("\x1b[2J\x9b2J\u202eevil\ud800") == "�\\[2J�2J�evil�"


def test_tables_give_what_campaign_json_holds(finished_campaign: Any) -> None:
    state = json.loads((finished_campaign.directory / "campaign.json").read_text())
    rows, measures = round_rows(state), measure_rows(state)
    assert [row["round"] for row in rows] == ["1", "2", "3*"]
    assert rows[1] == {
        "round": "2",
        "pairs": "317",
        "distinct-2": "–",
        "equal": "–",
        "wins vs start": "0.820 (0.785–0.855)",
        "wins vs champion": "0.481 (0.441–0.521)",
        "gate": "refused",
    }
    assert measures[1] == {
        "round": "2",
        "reward": "1.90",
        "KL": "5.4",
        "tokens": "24.1",
        "generate": "5.2",
        "collect": "2.5",
        "validate": "2.8",
        "train": "63.5",
        "evaluate": "6.1",
        "promote": "2.1",
    }
    assert decisions(state)[1] == "round 2 refused: lower bound 0.4410 <= 0.5; length ratio 1.71 > 1.5"


def test_measure_rows_seeded_round_has_a_dash_where_it_had_no_stage(finished_campaign: Any) -> None:
    state = json.loads((finished_campaign.directory / "campaign.json").read_text())
    state["rounds"][0]["seconds"].pop("generate_responses")
    assert [row["generate"] for row in measure_rows(state)][:2] == ["–", "5.2"]


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.501, 0.6, "better, beyond chance"),
        (0.5, 0.6, "no proof of a difference"),
        (0.4, 0.5, "no proof"),
        (0.4, 0.499, "worse, beyond chance"),
    ],
)
def test_comparison_claims_no_more_than_the_interval(low: float, high: float, verdict: str) -> None:
    text = comparison(Interval(value=(low + high) / 2, low=low, high=high, n=1234), "the start model", 0.9)
    assert verdict in text
    assert "on 1,234 held-out prompts (90 % interval" in text


def test_numbers_absent_negative_and_long_read_right() -> None:
    assert decimal(None, 2) == "\u2013"
    assert decimal(-1.5, 2) == "\u22121.50"
    assert [duration(value) for value in (0.04, 99.9, 120.0, 7000.0)] == ["0.0 s", "99.9 s", "2.0 min", "1 h 57 min"]


def test_running_mean_uses_only_what_lies_around_a_step() -> None:
    assert running_mean(np.array([0.0, 0.0, 3.0, 0.0, 0.0]), 1).tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]
    assert running_mean(np.array([1.0, 2.0, 9.0]), 5).tolist() == [1.0, 4.0, 9.0]


def test_outcome_counts_split_wins_ties_and_losses() -> None:
    assert outcome_counts([1.0, 0.5, 0.0, 1.0, 1.0]) == {"win": 3, "tie": 1, "loss": 1}


@pytest.mark.parametrize(
    "values",
    [
        np.arange(60) * 1.0,
        np.arange(3, 48) * 1.0,
        np.arange(-8, 13) * 0.25,
        np.array([7.0, 7.0]),
        np.linspace(0, 1, 1500) ** 2,
    ],
)
def test_bin_edges_cover_each_value_once_and_grid_values_evenly(values: np.ndarray) -> None:
    edges = bin_edges(values, bins=24)
    counts = np.histogram(values, bins=edges)[0]
    assert counts.sum() == len(values)
    assert len(counts) <= 24
    if 2 < len(values) < 100:
        assert len(set(counts[:-1])) == 1  # evenly spread values give a flat histogram; the last bin may be cut


def evaluation_data() -> dict[str, Any]:
    chance = np.random.default_rng(3)
    names = ("start", "champion", "challenger")
    return {
        "rewards": {name: [*chance.normal(index, 1, 64).tolist(), float("nan")] for index, name in enumerate(names)},
        "lengths": {name: chance.integers(3, 48, 65).tolist() for name in names},
        "outcomes_vs_champion": chance.choice([0.0, 0.5, 1.0], 65).tolist(),
        "outcomes_vs_start": [1.0] * 65,
        "e_values": np.geomspace(1, 50, 65).tolist(),
        "level": 0.02,
    }


def png_chunks(path: Path) -> list[str]:
    content, at, chunks = path.read_bytes(), 8, []
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    while at < len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        chunks.append(content[at + 4 : at + 8].decode())
        at += 12 + length
    return chunks


def test_evaluation_plots_of_equal_data_have_equal_bytes(tmp_path: Path) -> None:
    first = evaluation_plots(tmp_path / "a", **evaluation_data())
    second = evaluation_plots(tmp_path / "b", **evaluation_data())
    assert [path.relative_to(tmp_path) for path in first] == [
        Path("a/plots") / f"{name}.png" for name in ("rewards", "lengths", "outcomes", "evidence")
    ]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    for path in first:
        assert not {"tEXt", "iTXt", "tIME"} & set(png_chunks(path)), path  # a version or a date would change the bytes


def test_evaluation_plots_each_depend_on_their_own_data(tmp_path: Path) -> None:
    before = [path.read_bytes() for path in evaluation_plots(tmp_path, **evaluation_data())]
    changes = {"rewards": 0, "lengths": 1, "outcomes_vs_champion": 2, "outcomes_vs_start": 2, "e_values": 3}
    for name, index in changes.items():
        data = evaluation_data()
        series = data[name]["challenger"] if isinstance(data[name], dict) else data[name]
        series[:20] = [0.0 if name.startswith("outcomes") else 40] * 20
        after = [path.read_bytes() for path in evaluation_plots(tmp_path, **data)]
        assert [old != new for old, new in zip(before, after, strict=True)] == [
            position == index for position in range(4)
        ], name


def test_evaluation_plots_without_scores_leave_rewards_out(tmp_path: Path) -> None:
    written = evaluation_plots(tmp_path, **(evaluation_data() | {"rewards": {}}))
    assert [path.name for path in written] == ["lengths.png", "outcomes.png", "evidence.png"]
    assert not (tmp_path / "plots" / "rewards.png").exists()


def test_training_plot_is_made_of_its_four_metrics_alone(three_rounds: Any, tmp_path: Path) -> None:
    lines = (three_rounds.directory / "round-001" / "dpo_train" / "metrics.jsonl").read_text().splitlines()
    metrics = [json.loads(line) for line in lines]
    path = training_plot(tmp_path, metrics)
    before = path.read_bytes()
    assert path == tmp_path / "training.png"
    assert (
        training_plot(tmp_path, [entry | {"time": 1.0, "tokens_per_second": 2.0} for entry in metrics]).read_bytes()
        == before
    )
    for key in ("loss", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected"):
        assert training_plot(tmp_path, [*metrics[:-1], metrics[-1] | {key: 0.123}]).read_bytes() != before, key


def test_training_plot_of_evaluations_during_training_draws_them(three_rounds: Any, tmp_path: Path) -> None:
    lines = (three_rounds.directory / "round-001" / "dpo_train" / "metrics.jsonl").read_text().splitlines()
    metrics = [json.loads(line) for line in lines]
    before = training_plot(tmp_path, metrics).read_bytes()
    for key in ("eval/loss", "eval/rewards/margins", "eval/rewards/accuracies"):
        evaluated = [entry | {key: 0.5} if entry["step"] % 2 else entry for entry in metrics]
        assert training_plot(tmp_path, evaluated).read_bytes() != before, key


def test_training_charts_of_tokens_are_drawn_from_the_round_that_measured_them(three_rounds: Any) -> None:
    """Rounds of earlier versions measured less: no chart without data, and no value where there was none."""
    campaign = read_campaign(three_rounds.directory)
    titles = [chart.title for chart in training_charts(campaign)]
    assert titles == ["Loss", "Reward margin", "Reward accuracy", "Log-probabilities"]
    path = three_rounds.directory / "round-002" / "dpo_train" / "metrics.jsonl"
    rows = [json.loads(line) | {"entropy": 1.25, "lengths/chosen": 20.0} for line in path.read_text().splitlines()]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    charts = {chart.title: chart for chart in training_charts(read_campaign(three_rounds.directory))}
    assert set(charts) - set(titles) == {"Entropy", "Response length in training"}
    assert "nats per response token" in charts["Entropy"].svg


def test_training_curve_puts_the_held_out_value_at_the_step_that_was_published() -> None:
    metrics = [{"step": step, "loss": 0.7 - step / 100} for step in range(1, 6)]
    places = []
    for published in (None, 2, 5):
        axes = Figure().subplots()
        training = Training(round=2, metrics=metrics, held_out={"loss": 0.5}, published_step=published)
        draw_curves(axes, [training], panels(PAPER)["Loss"], PAPER)
        (diamond,) = [line for line in axes.lines if line.get_marker() == "D"]
        places.append(float(diamond.get_xdata()[0]))
    assert places == [5.0, 2.0, 5.0]


def test_training_plot_of_a_single_step_renders(tmp_path: Path) -> None:
    keys = ("loss", "rewards/margins", "rewards/accuracies", "logps/chosen", "logps/rejected")
    assert training_plot(tmp_path, [dict.fromkeys(keys, 0.5) | {"step": 1}]).stat().st_size > 0


def test_report_import_loads_no_heavy_library() -> None:
    folder = Path(report.__file__).parent
    modules = [f"components.report.{path.stem}" for path in sorted(folder.glob("*.py")) if path.stem != "__init__"]
    assert {"components.report.campaign", "components.report.round"} <= set(modules)
    heavy = {"torch", "prefect", "mlflow", "matplotlib.pyplot"}
    code = f"import sys, {', '.join(modules)}\nprint(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=folder.parent.parent
    )
    assert done.stdout.strip() == "[]"


def test_round_markdown_says_which_step_was_published_and_why_a_training_stopped(three_rounds: Any) -> None:
    path = three_rounds.directory / "round-003" / "dpo_train" / "train.json"
    trained = read_json(path)
    told = "eval/loss was best behind step 2 (0.5000) and not better in 2 evaluations since"
    write_json(path, trained | {"published_step": 2, "planned_steps": 1000, "stopped_early": told})
    steps = {
        number: [
            cells[1] for cells in cell_texts(round_markdown(three_rounds.directory, number)) if "steps" in cells[0]
        ]
        for number in (2, 3)
    }
    made = trained["num_steps"]
    kept = f"{made}; those behind step 2 are published, as keep: best asks; of 1,000, stopped early: {told}"
    assert steps == {2: [str(made)], 3: [kept]}


def test_round_markdown_names_what_went_wrong_in_the_training(three_rounds: Any) -> None:
    path = three_rounds.directory / "round-003" / "dpo_train" / "train.json"
    cause = "exploding margins: <b>20</b>"
    write_json(path, read_json(path) | {"diagnosis": [cause]})
    assert f"**Training went wrong**\n\n- {escape_markdown(cause)}\n" in round_markdown(three_rounds.directory, 3)
    assert "went wrong" not in round_markdown(three_rounds.directory, 2)


def test_path_of_the_training_is_told_where_it_is_known(three_rounds: Any) -> None:
    why = "LlamaForCausalLM takes <b>eager</b> attention"
    for number, path in ((2, {"packed": True, "reason": None}), (3, {"packed": False, "reason": why})):
        file = three_rounds.directory / f"round-00{number}" / "dpo_train" / "train.json"
        write_json(file, read_json(file) | {"scoring": path})
    told = [
        dict(row for row in cell_texts(round_markdown(three_rounds.directory, each)) if len(row) == 2)
        for each in (1, 2, 3)
    ]
    assert [measures.get("rows of the training") for measures in told] == [None, "packed", f"padded: {why}"]
    html = write_report(three_rounds.directory).read_text()
    assert html.count("<small>packed</small>") == html.count("<small>padded</small>") == 1
    assert html.count("It was padded because: LlamaForCausalLM takes &lt;b&gt;eager&lt;/b&gt; attention.") == 1


def test_round_markdown_tells_what_the_verdicts_say_about_the_judge(finished_campaign: Any) -> None:
    rows = {row[0]: row[1:] for row in cell_texts(round_markdown(finished_campaign.directory, 3))}
    told = ["75 % (71–79)", "–", "25 % (21–29)", "0.5 %", "62 % (58–66), prefers longer", "−3.5 char.", "1,200", "3.46"]
    assert rows["of the pairs"] == told
    assert rows["of the pairs: rule:<script>alert('x')</script>"] == ["88 % (84–92)", "81.2 %", "–", "–"]
    assert "The judge" not in round_markdown(finished_campaign.directory, 2)


def test_tables_show_the_diversity_of_a_round_that_measured_it(finished_campaign: Any) -> None:
    state = json.loads((finished_campaign.directory / "campaign.json").read_text())
    state["rounds"][1] |= {"distinct_2": 0.2451, "equal_samples": 0.0}
    assert [(row["distinct-2"], row["equal"]) for row in round_rows(state)] == [
        ("–", "–"),
        ("0.2451", "0.00"),
        ("–", "–"),
    ]


def test_diversity_is_drawn_and_a_collapse_is_named_for_the_rounds_that_measured_it(
    three_rounds: Any,
) -> None:
    """Earlier rounds have no point: a zero would read as a collapse."""
    assert "Response diversity by round" not in write_report(three_rounds.directory).read_text()
    assert round_rows(json.loads((three_rounds.directory / "campaign.json").read_text()))[0]["equal"] == "\u2013"
    measured = {"distinct_1": 0.1, "distinct_2": 0.4, "equal_samples": 0.7, "all_equal": 0.625}
    path = three_rounds.directory / "round-003" / "generate_responses"
    tables = {name: pd.read_parquet(path / name) for name in ("prompts.parquet", "responses.parquet")}
    three_rounds.stage(3, "generate_responses", {**tables, "generate.json": {"diversity": measured}})
    html = write_report(three_rounds.directory).read_text()
    assert "Response diversity by round" in html
    assert "Round 3: 62.5 % of the prompts got equal samples only" in html
    assert "Round 2:" not in html
    markdown = round_markdown(three_rounds.directory, 3)
    assert "**Sampling collapsed**" in markdown
    assert "| distinct-1 and distinct-2 of the samples | 0.100, 0.400 |" in markdown
    assert "distinct-1" not in round_markdown(three_rounds.directory, 2)
