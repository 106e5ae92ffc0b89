"""Files of principles: ours loads, and what is wrong with a user's is one line."""

from pathlib import Path

import pytest

from components.config.shipped import conf_path
from components.judges.principles import OURS, load_principles


@pytest.mark.parametrize("name", sorted(path.stem for path in conf_path(OURS).glob("*.yaml")))
def test_principles_every_shipped_file_loads(name: str) -> None:
    principles = load_principles(name)
    assert 4 <= len(principles) <= 8
    assert all(len(principle.text.split()) > 10 for principle in principles)


def test_principles_of_a_user_are_read_with_a_vote_each(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "- {name: kind, text: It is kind.}\n- {name: short, text: It is short., weight: 2.5}\n"
    )
    assert [tuple(principle) for principle in load_principles(str(tmp_path / "mine.yaml"))] == [
        (("name", "kind"), ("text", "It is kind."), ("weight", 1.0)),
        (("name", "short"), ("text", "It is short."), ("weight", 2.5)),
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "write a list of"),
        ("[]", "holds no principles"),
        ("- {name: a}", r"0\.text: Field required; write a list"),
        ("- {name: a, text: b, weight: 0}", r"0\.weight: Input should be greater than 0"),
        ("- {name: a, text: b, wieght: 2}", r"0\.wieght: Extra inputs"),
        ("- {name: a/b, text: b}", r"0\.name: String should match"),
        ("- {name: a, text: b}\n- {name: a, text: c}", "names a twice"),
        ("- [", "cannot be read"),
    ],
)
def test_principles_that_are_wrong_are_told_in_one_line(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match=says) as caught:
        load_principles(str(tmp_path / "mine.yaml"))
    assert "\n" not in str(caught.value)


def test_principles_that_do_not_exist_are_told_with_ours() -> None:
    with pytest.raises(
        ValueError, match="nonsense is neither a file nor one of ours: use helpful, or name a YAML file"
    ):
        load_principles("nonsense")
