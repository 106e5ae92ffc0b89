import os
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.artifacts import (
    artifact,
    derive_seed,
    digest,
    publishing,
    read_table,
    verified,
    write_bytes,
    write_json,
    write_table,
)
from components.config import GateConfig, JudgeConfig
from components.records import Artifact, JudgeRef, PromoteRequest


def publish(directory: Path, *, key: str = "k", content: str = "hello") -> None:
    with publishing(directory, stage="s", version=1, key=key) as workspace:
        (workspace.path / "nested").mkdir()
        (workspace.path / "nested" / "a.txt").write_text(content)
        write_table(workspace.path / "t.parquet", pd.DataFrame({"x": [1, 2, 3]}))


def write_then_fail(path: Path) -> None:
    path.write_text("x")
    raise OSError("disk")


def test_publishing_complete_stage_is_verified_with_rows_time_and_memory(tmp_path: Path) -> None:
    publish(tmp_path / "stage")
    manifest = verified(tmp_path / "stage", "k")
    assert manifest is not None
    assert set(manifest.files) == {"nested/a.txt", "t.parquet"}
    assert manifest.files["t.parquet"].rows == 3
    assert manifest.seconds > 0
    assert manifest.peak_memory_bytes > 10 * 2**20
    assert len(read_table(artifact(tmp_path / "stage", manifest, "t.parquet"))) == 3


def test_publishing_error_leaves_nothing_and_keeps_what_was_there(tmp_path: Path) -> None:
    publish(tmp_path / "stage")
    publication = publishing(tmp_path / "stage", stage="s", version=1, key="k2")
    with pytest.raises(OSError, match="disk"), publication as workspace:
        write_then_fail(workspace.path / "half")
    assert verified(tmp_path / "stage", "k") is not None
    assert os.listdir(tmp_path) == ["stage"]


def test_publishing_after_a_crash_clears_its_leftovers(tmp_path: Path) -> None:
    (tmp_path / ".stage.tmp-99999").mkdir()
    (tmp_path / ".stage.tmp-99999" / "half").write_text("x")
    publish(tmp_path / "stage")
    assert os.listdir(tmp_path) == ["stage"]


@pytest.mark.parametrize("damage", ["changed", "removed", "manifest", "unfinished"])
def test_verified_damaged_stage_is_not_done(damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    publish(tmp_path / "stage")
    file = tmp_path / "stage" / "nested" / "a.txt"
    match damage:
        case "changed":
            file.write_text("hellp")
        case "removed":
            file.unlink()
        case "manifest":
            (tmp_path / "stage" / "MANIFEST.json").write_text("{")
        case "unfinished":
            (tmp_path / "stage" / "MANIFEST.json").unlink()
    assert verified(tmp_path / "stage", "k") is None
    assert damage == "unfinished" or "again" in caplog.text


def test_verified_other_key_is_not_done(tmp_path: Path) -> None:
    publish(tmp_path / "stage")
    assert verified(tmp_path / "stage", "other") is None


def test_digest_place_of_an_artifact_does_not_matter_but_its_content_does() -> None:
    def of(path: str, content: str) -> str:
        return digest(PromoteRequest(evaluation=Artifact(path=Path(path), digest=content), gate=GateConfig()))

    assert of("/a", "1") == of("/b", "1")
    assert of("/a", "1") != of("/a", "2")


def test_digest_a_judge_counts_with_its_weights() -> None:
    judges = [JudgeRef(config=JudgeConfig(), digest=weights) for weights in "12"]
    assert digest({"judge": judges[0]}) != digest({"judge": judges[1]})


def test_write_table_equal_tables_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_table(tmp_path / name, pd.DataFrame({"text": ["x", "y"], "ids": [[1, 2], [3]]}))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_write_json_not_a_number_is_refused_and_the_old_file_stays(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": 1.0})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert "1.0" in (tmp_path / "a.json").read_text()


def test_write_bytes_leaves_no_temporary_file(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"1")
    write_bytes(tmp_path / "a", b"2")
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"2"


@given(st.lists(st.tuples(st.integers(0, 5), st.text(max_size=3)), min_size=2, unique=True))
def test_derive_seed_different_parts_differ_and_stay_in_range(parts: list[tuple[int, str]]) -> None:
    seeds = [derive_seed(*part) for part in parts]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**31 for seed in seeds)
