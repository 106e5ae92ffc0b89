import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.config import load_config
from components.report.campaign import MAX_CHARACTERS, write_report
from components.report.round import round_markdown


class Page(HTMLParser):
    """What a browser would make of a report.

    Its tags, its texts, and the cells of its tables by section and row heading.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.sections: dict[str, str] = {}
        self.tables: dict[str, list[dict[str, list[str]]]] = {}
        self._section = "header"
        self._row: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag == "section":
            self._section = str(attributes["id"])
        if tag == "table":
            self.tables.setdefault(self._section, []).append({})
        if tag == "tr":
            self._row = []
        if tag in ("td", "th"):
            self._row.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "tr":
            self.tables[self._section][-1][self._row[0].strip()] = [" ".join(cell.split()) for cell in self._row[1:]]
            self._row = []

    def handle_data(self, data: str) -> None:
        self.text += data
        self.sections[self._section] = self.sections.get(self._section, "") + data
        if self._row:
            self._row[-1] += data


def read_page(maker: Any) -> Page:
    return Page(write_report(maker.directory))


@pytest.fixture(scope="module")
def page(finished_campaign: Any) -> Page:
    """The report of three finished rounds, for the tests that only read it."""
    return read_page(finished_campaign)


def test_report_of_three_rounds_shows_the_numbers_of_campaign_json(page: Page, finished_campaign: Any) -> None:
    state = json.loads((finished_campaign.directory / "campaign.json").read_text())
    rounds, seconds = page.tables["rounds"]
    assert len(state["rounds"]) == 3
    for record in state["rounds"]:
        outcome, pairs, vs_start, vs_champion, reward, kl, tokens = rounds[str(record["round"])]
        assert outcome.split()[0] == ("promoted" if record["promoted"] else "refused")
        assert pairs == str(record["num_pairs"])
        for cell, opponent in ((vs_start, "start"), (vs_champion, "champion")):
            rate = record[f"win_rate_vs_{opponent}"]
            estimate = f"{rate['value']:.3f} ({rate['low']:.3f} to {rate['high']:.3f})"
            assert cell.startswith(estimate)
            tooltip = f"<title>round {record['round']} vs {opponent}: {estimate}</title>"
            assert tooltip in page.source
        assert (reward, kl, tokens) == (
            f"{record['mean_reward']:.3f}",
            f"{record['kl_to_start']:.2f}",
            f"{record['mean_tokens']:.1f}",
        )
        stages = seconds[str(record["round"])]
        assert stages[:-1] == [f"{value:.1f} s 1.50 GiB" for value in record["seconds"].values()]
        assert stages[-1] == f"{sum(record['seconds'].values()):.1f} s 1.50 GiB"


def test_report_headline_names_the_champion_with_its_interval_and_not_the_last_round(three_rounds: Any) -> None:
    three_rounds.round(4, promoted=False, reasons=("no",), vs_champion=0.4)
    header = read_page(three_rounds).sections["header"]
    assert (
        "The champion is round 3. It wins 0.880 of the comparisons with the start model on 256 held-out prompts"
        in header
    )
    assert "(95 % interval 0.845 to 0.915): better, beyond chance." in header
    assert "4 rounds finished, 2 promoted." in header


def test_report_win_rate_chart_draws_each_interval_at_its_own_length(page: Page) -> None:
    bars = {}
    for opponent in ("challenger", "champion"):  # the colours of the comparisons with the start and with the champion
        ends = re.findall(
            rf'<path d="M (\S+) (\S+) L \1 (\S+) "[^>]*stroke: var\(--{opponent}\)',
            page.source.partition("</figure>")[0],
        )
        bars[opponent] = [abs(float(low) - float(high)) for _, low, high in ends[:3]]
    assert bars["challenger"] == pytest.approx([bars["champion"][0] * 0.035 / 0.04] * 3, rel=0.01)
    assert bars["champion"] == pytest.approx([bars["champion"][0]] * 3, rel=0.01)


def test_report_comparison_names_the_champion_that_each_round_met(page: Page) -> None:
    rounds = page.tables["rounds"][0]
    opponents = [rounds[str(number)][3].partition("champion: ")[2] for number in (1, 2, 3)]
    assert opponents == ["the start model", "round 1", "round 1"]
    assert [rounds[str(number)][0] for number in (1, 2, 3)] == ["promoted", "refused", "promoted champion"]


def test_report_without_a_promotion_keeps_the_start_as_champion(make_campaign: Any) -> None:
    maker = make_campaign()
    maker.round(1, promoted=False, reasons=("KL to the start 140.0 > 100",), vs_champion=0.9)
    page = read_page(maker)
    assert "The start model is still the champion: the gate refused 1 challenger." in page.sections["header"]
    assert "KL to the start 140.0 > 100" in page.sections["rounds"]


def test_report_gate_section_gives_all_reasons_of_a_refusal(page: Page) -> None:
    gate = page.sections["rounds"].partition("The gate's decisions")[2]
    between = gate.partition("Round 2")[2].partition("Round 3")[0]
    assert "lower bound 0.4410 <= 0.5" in between
    assert "length ratio 1.71 > 1.5" in between


def test_report_of_hostile_answers_shows_them_as_text(page: Page) -> None:
    assert (
        page.sections["samples"].count("<script>alert('x')</script>") == 6
    )  # prompt and answer in each of three rounds
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "img", "iframe", "object", "embed", "link", "base", "form", "video", "audio"}
    policy = next(attributes["content"] for tag, attributes in page.tags if "http-equiv" in attributes)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_report_loads_nothing_from_anywhere(page: Page) -> None:
    for tag, attributes in page.tags:
        assert not {"src", "srcset", "data", "poster", "background"} & attributes.keys(), (tag, attributes)
        for name in ("href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#"), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
    addresses = re.findall(r"(?:https?:)?//[\w.]+", page.source)
    assert set(addresses) == {"https://example.org"}  # a sample's text
    assert "@import" not in page.source
    assert set(re.findall(r"url\((.)", page.source)) <= {"#"}


def test_report_references_all_lead_to_one_place(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {
        str(attributes[name])[1:]
        for _, attributes in page.tags
        for name in ("href", "xlink:href")
        if name in attributes
    }
    assert links | set(re.findall(r"url\(#(\w+)\)", page.source)) <= set(ids)
    assert {"rounds", "charts", "training", "samples", "data", "lineage", "reproduce"} <= links


def test_report_colours_all_follow_the_theme(page: Page) -> None:
    style = page.source.partition("<style>")[2].partition("</style>")[0]
    dark = style.partition("prefers-color-scheme: dark")[2].partition("\n}\n")[0]
    figures = page.source.partition("<main>")[2]
    used = set(re.findall(r"var\((--\w+)\)", figures))
    assert {"--ink", "--challenger", "--champion", "--chosen", "--rejected"} <= used
    assert used <= set(re.findall(r"(--\w+):", dark))
    assert not re.findall(r"(?:fill|stroke): #\w+", figures)


@pytest.mark.parametrize(
    ("published", "status", "kl"),
    [
        (0, "unfinished, next: generate", "\u2013"),
        (2, "unfinished, next: validate", "\u2013"),
        (4, "unfinished, next: evaluate", "\u2013"),
        (5, "unfinished, next: promote", "10.87"),
        (6, "refused, not recorded yet", "10.87"),
    ],
)
def test_report_of_a_round_that_stopped_says_where(three_rounds: Any, published: int, status: str, kl: str) -> None:
    (three_rounds.directory / "round-004").mkdir()
    steps = [
        lambda: three_rounds.generate(4),
        lambda: three_rounds.collect(4),
        lambda: three_rounds.validate(4),
        lambda: three_rounds.train(4),
        lambda: three_rounds.evaluate(4, vs_champion=0.5),
        lambda: three_rounds.stage(
            4, "promote", {"decision.json": {"promoted": False, "reasons": ["lower bound 0.46 <= 0.5"]}}
        ),
    ]
    for step in steps[:published]:
        step()
    three_rounds.save(target=4)
    page = read_page(three_rounds)
    row = page.tables["rounds"][0]["4"]
    assert (row[0], row[5]) == (status, kl)
    assert f"3 rounds finished, 2 promoted; round 4 {status}; 1 round to go." in page.sections["header"]
    assert ("lower bound 0.46 <= 0.5" in page.sections["rounds"]) == (published == 6)


def test_report_of_a_half_written_stage_does_not_read_it(three_rounds: Any) -> None:
    broken = three_rounds.directory / "round-004" / "evaluate"
    broken.mkdir(parents=True)
    (broken / "evaluation.json").write_text('{"num_prompts": 2')
    (broken / "MANIFEST.json").write_text("{")
    assert read_page(three_rounds).tables["rounds"][0]["4"][0] == "unfinished, next: generate"


def test_report_of_a_campaign_with_no_round_renders(make_campaign: Any) -> None:
    page = read_page(make_campaign())
    assert "no round is finished yet" in page.sections["header"]
    assert "2,048 training prompts and 256 held-out prompts" in " ".join(page.sections["data"].split())
    assert "charts" not in page.sections


def test_report_of_a_seeded_round_expects_no_responses(make_campaign: Any) -> None:
    maker = make_campaign(preferences={"seed_pairs": "pairs.jsonl"})
    maker.collect(1, responses=0)
    page = read_page(maker)
    assert page.tables["rounds"][0]["1"][0] == "unfinished, next: validate"
    maker.validate(1)
    maker.train(1)
    maker.evaluate(1, vs_champion=0.7)
    maker.promote(1, promoted=True, reasons=("ok",), vs_champion=0.7)
    page = read_page(maker)
    assert "Win rate by round" in page.sections["charts"]
    assert "Response length" not in page.sections["charts"]
    assert page.tables["data"][0]["1 seeded by a data set"][0] == "384"


def test_report_of_a_judge_without_scores_shows_no_reward(make_campaign: Any) -> None:
    maker = make_campaign()
    samples = maker.samples(1).assign(reward_start=np.nan, reward_champion=np.nan, reward_challenger=np.nan)
    maker.evaluate(1, vs_champion=0.7, samples=samples, scored=False)
    maker.promote(1, promoted=True, reasons=("ok",), vs_champion=0.7, scored=False)
    page = read_page(maker)
    assert page.tables["rounds"][0]["1"][4] == "\u2013"
    assert "Reward against KL" not in page.sections["charts"]
    assert "nan" not in page.text.lower()


def test_report_data_section_counts_add_up_and_name_quarantine_reasons(page: Page) -> None:
    collected = page.tables["data"][0]
    (validated,) = [table for table in page.tables["data"] if "Quarantine reasons" in table.get("Round", [])]
    for number in (1, 2, 3):
        prompts, _, _, invalid, *ended, pairs, _ = (
            cell.replace(",", "").replace("\u2013", "0") for cell in collected[str(number)]
        )
        assert int(prompts) == sum(map(int, ended))
        assert pairs == ("351" if number == 1 else "700")
        assert invalid == "2"
        received, replayed, train, held_out, quarantined, *_ = map(int, validated[str(number)][:5])
        assert received + replayed == train + held_out + quarantined
    assert validated["2"][5:] == ["2.0 %", "identical after truncation: 4, duplicate: 3"]
    assert validated["1"][6] == "none"


def test_report_samples_keep_latest_open_and_cut_long_answers(three_rounds: Any) -> None:
    long = three_rounds.samples(4).assign(challenger="x" * (MAX_CHARACTERS + 1))
    three_rounds.evaluate(4, vs_champion=0.5, samples=long)
    page = read_page(three_rounds)
    opened = ["open" in attributes for tag, attributes in page.tags if tag == "details"]
    # Four rounds of samples, two rounds of data checks, then the configuration.
    assert opened == [True, False, False, False, False, False, False]
    texts = page.sections["samples"]
    assert [f"Round {number}" in texts for number in (1, 2, 3, 4)] == [True] * 4
    assert "12 of 12 kept samples; champion: round 3" in texts
    assert "8 of 12 kept samples; champion: the start model" in texts
    assert "x" * (MAX_CHARACTERS + 1) not in texts
    assert f"(cut: {MAX_CHARACTERS + 1:,} characters)" in texts
    assert "(empty)" in texts
    assert "unjudged vs start" in texts


def test_report_lineage_follows_digests_back_to_the_start(page: Page, finished_campaign: Any) -> None:
    titles = [attributes["title"] for tag, attributes in page.tags if tag == "code" and "title" in attributes]
    state = json.loads((finished_campaign.directory / "campaign.json").read_text())
    for record in state["rounds"]:
        directory = finished_campaign.directory / f"round-{record['round']:03d}"
        files = (
            "generate_responses/prompts",
            "generate_responses/responses",
            "collect_preferences/preferences",
            "validate_data/train",
        )
        for stage, name in (file.split("/") for file in files):
            manifest = json.loads((directory / stage / "MANIFEST.json").read_text())
            assert manifest["files"][f"{name}.parquet"]["sha256"] in titles
        assert titles.index(record["reference_digest"]) < titles.index(record["policy_digest"])
    third = " ".join(page.sections["lineage"].partition("Round 3")[2].split())
    champion = state["rounds"][0]["policy_digest"][:10]
    assert third.startswith(f"trained from {champion} round 1's policy prompts ")
    assert f"reference {champion} round 1's policy policy {state['rounds'][2]['policy_digest'][:10]}" in third


def test_report_reproduction_uses_a_config_that_loads_as_the_same(
    page: Page, finished_campaign: Any, tmp_path: Path
) -> None:
    assert "ratchet run runs/unit-campaign/config.json --rounds 3" in page.sections["reproduce"]
    resolved = tmp_path / "resolved.json"
    resolved.write_text(page.sections["reproduce"].partition("Resolved configuration")[2].strip())
    assert load_config(resolved) == finished_campaign.config
    assert "The configuration is the default one." in page.sections["reproduce"]


def test_report_config_changes_are_listed(make_campaign: Any) -> None:
    page = read_page(make_campaign(training={"learning_rate": 1e-4}, gate={"max_kl_to_start": 50.0}))
    assert "training.learning_rate: 5e-06 -> 0.0001" in page.sections["reproduce"]
    assert "gate.max_kl_to_start: 100.0 -> 50.0" in page.sections["reproduce"]


def test_report_written_twice_has_the_same_bytes_and_leaves_nothing_else(three_rounds: Any) -> None:
    before = sorted(path.name for path in three_rounds.directory.iterdir())
    first = write_report(three_rounds.directory).read_bytes()
    assert write_report(three_rounds.directory).read_bytes() == first
    assert sorted(path.name for path in three_rounds.directory.iterdir()) == sorted([*before, "report.html"])


def test_report_of_no_campaign_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not contain a campaign: name one that `ratchet run` has started"):
        write_report(tmp_path)


def test_report_tells_what_the_verdicts_say_about_the_judge(page: Page) -> None:
    judges = next(table for table in page.tables["data"] if "longer answer wins" in table.get("Round", []))
    assert set(judges) == {"Round", "1", "3"}, "what was not measured has no row"
    told = ["75 % (71–79)", "–", "25 % (21–29)", "0.5 %", "62 % (58–66), prefers longer", "−3.5 char.", "1,200", "3.46"]
    assert judges["3"] == ["of the pairs", *told]
    parts = next(table for table in page.tables["data"] if "agrees with the whole" in table.get("Round", []))
    assert parts["3"] == ["of the pairs: rule:<script>alert('x')</script>", "88 % (84–92)", "81.2 %", "–", "–"]


def test_report_tells_what_the_costly_judge_said(page: Page) -> None:
    costly = next(table for table in page.tables["data"] if "turned" in table.get("Round", []))
    assert set(costly) == {"Round", "3"}, "rounds without a costly judge, and those of earlier versions, have no row"
    assert costly["3"] == ["disagreement", "353", "40", "27", "9", "3", "1", "3"]


def test_report_tells_how_often_responses_violate_each_principle(page: Page) -> None:
    principles = next(table for table in page.tables["data"] if "violate it" in table.get("Round", []))
    assert principles["3"] == ["<script>alert('x')</script>", "12", "3", "25.0 %", "1"]
    assert set(principles) == {"Round", "3"}, "a round without a constitution has no row"


def test_report_shows_data_checks_and_in_the_overview_only_what_is_above_its_limit(page: Page) -> None:
    (overview,) = [table for table in page.tables["data"] if "Above their limits" in table.get("Round", [])]
    assert set(overview) == {"Round", "3"}
    assert overview["3"] == ["1 fail 1 warn", "secrets 0.28 % (limit 0.0 %), length_bias 70.4 % (limit 65.0 %)"]
    latest, earlier = [table for table in page.tables["data"] if "Verdict" in table.get("Check", [])]
    assert list(latest) == ["Check", "secrets", "length_bias"], "what needs attention comes first"
    assert latest["secrets"][:3] == ["fail", "0.28 %", "0.0 %"]
    assert "pair 7: API key <script>alert('x')</script> [API key]" in latest["secrets"][3]
    assert earlier["length_bias"] == ["pass", "60.0 %", "65.0 %", "the longer answer is right"]
    assert "nothing to measure: tag_balance." in page.sections["data"]


def test_report_without_texts_has_no_examples_of_data_checks(make_campaign: Any) -> None:
    maker = make_campaign(tracking={"texts": False})
    maker.round(3, promoted=True, reasons=("ok",), vs_champion=0.7)
    page = read_page(maker)
    assert "secrets 0.28 %" in page.sections["data"]
    assert "[API key]" not in page.sections["data"]
    assert "[API key]" not in round_markdown(maker.directory, 3)


def test_round_markdown_shows_data_checks_with_an_example(finished_campaign: Any) -> None:
    text = round_markdown(finished_campaign.directory, 3)
    assert "| secrets | fail | 0.28 % | 0.0 % | 1 of 353 rows |" in text
    assert "- secrets, pair 7, API key: \\<script\\>alert('x')\\</script\\> \\[API key\\]" in text
    assert "Data checks" not in round_markdown(finished_campaign.directory, 1), "an earlier version had none"
