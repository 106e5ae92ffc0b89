"""Files of principles: the shipped one loads, and an error in a user's file is one line."""

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
    (tmp_path / "own.yaml").write_text(
        "- {name: kind, text: It is kind.}\n- {name: short, text: It is short., weight: 2.5}\n"
    )
    assert [tuple(principle) for principle in load_principles(str(tmp_path / "own.yaml"))] == [
        (("name", "kind"), ("text", "It is kind."), ("weight", 1.0)),
        (("name", "short"), ("text", "It is short."), ("weight", 2.5)),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "write a list of"),
        ("[]", "is empty: write a list"),
        ("- {name: a}", r"0\.text: Field required; write a list"),
        ("- {name: a, text: b, weight: 0}", r"0\.weight: Input should be greater than 0"),
        ("- {name: a, text: b, wieght: 2}", r"0\.wieght: Extra inputs"),
        ("- {name: a/b, text: b}", r"0\.name: String should match"),
        ("- {name: a, text: b}\n- {name: a, text: c}", "has two principles with the name a: give each"),
        ("- [", "cannot be read"),
    ],
)
def test_principles_that_are_not_valid_raise_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        load_principles(str(tmp_path / "own.yaml"))
    assert "\n" not in str(caught.value)


def test_principles_that_do_not_exist_raise_with_the_shipped_names() -> None:
    with pytest.raises(
        ValueError, match="nonsense is neither a file nor a shipped set: use helpful, or the path of a YAML file"
    ):
        load_principles("nonsense")
