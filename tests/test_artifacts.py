import errno
import json
import os
import stat
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from components import artifacts
from components.artifacts import (
    artifact,
    derive_seed,
    digest,
    publishing,
    read_json,
    read_record,
    read_table,
    verified,
    write_bytes,
    write_json,
    write_table,
)
from components.config import GateConfig, JudgeConfig
from components.records import Artifact, JudgeRef, Manifest, NewerVersion, PromoteRequest


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


def test_publishing_syncs_every_directory_before_the_manifest_names_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut a manifest may else stand there beside a directory whose list of names is not on the disk."""
    synced: list[str] = []
    sync = artifacts.sync

    def recorded(path: Path) -> None:
        synced.append(path.name if path.name in ("nested", "a.txt", "stage") else "")
        assert not (path.parent / "MANIFEST.json").exists() or path.name not in ("nested", "a.txt")
        sync(path)

    monkeypatch.setattr(artifacts, "sync", recorded)
    publish(tmp_path / "stage")
    assert {"nested", "a.txt"} <= set(synced)


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002, 0o077], ids=oct)
def test_publishing_gives_all_files_the_mode_of_a_plain_open(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        with publishing(tmp_path / "stage", stage="s", version=1, key="k") as workspace:
            (workspace.path / "model").mkdir(mode=0o700)
            save_file({"weight": torch.ones(2)}, workspace.path / "model" / "model.safetensors")
            assert stat.S_IMODE((workspace.path / "model" / "model.safetensors").stat().st_mode) == 0o600
            (workspace.path / "t.txt").write_text("x")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "stage").rglob("*")}
    file = 0o666 & ~umask
    assert modes == {
        "model": 0o777 & ~umask,
        "model.safetensors": file,
        "t.txt": file,
        "MANIFEST.json": file,
    }
    assert stat.S_IMODE((tmp_path / "stage").stat().st_mode) == 0o777 & ~umask


NEWER = {
    "a higher format": ({"format": 2}, "its format is 2, and this version knows 1"),
    "a field of its own": ({"energy_joules": 3.0}, "this version does not know energy_joules"),
    "a field within a file": ({"files": {"a": {"sha256": "", "num_bytes": 1, "codec": "x"}}}, "files.a.codec"),
    "a higher version of the stage": ({"version": 2}, "it has version 2 of s, and this version 1"),
}


@pytest.mark.parametrize(("change", "sign"), NEWER.values(), ids=NEWER)
def test_verified_stage_of_a_newer_version_is_refused_and_stays(
    change: dict[str, object], sign: str, tmp_path: Path
) -> None:
    """It was called damaged, and an older version on the same disk wrote its own result over it."""
    publish(tmp_path / "stage")
    path = tmp_path / "stage" / "MANIFEST.json"
    content = json.dumps(read_json(path) | change)
    path.write_text(content)
    with pytest.raises(NewerVersion) as refused:
        verified(tmp_path / "stage", "k", version=1)
    assert str(refused.value).startswith(f"{path} was written by a newer version of Ratchet (")
    assert sign in str(refused.value)
    assert "\n" not in str(refused.value)
    assert path.read_text() == content


def test_manifest_of_the_first_format_is_as_earlier_versions_read_it(tmp_path: Path) -> None:
    publish(tmp_path / "stage")
    path = tmp_path / "stage" / "MANIFEST.json"
    assert list(read_json(path)) == ["stage", "version", "key", "files", "seconds", "peak_memory_bytes"]
    assert read_record(Manifest, path).format == 1


@pytest.mark.parametrize("content", ["[]", "{", '{"stage": "s", "sort": 1}', "\udcff"])
def test_read_record_of_a_damaged_file_says_damaged_and_not_newer(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError) as damaged:  # noqa: PT011
        read_record(Manifest, tmp_path / "a.json")
    assert not isinstance(damaged.value, NewerVersion)


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


def test_write_bytes_two_processes_of_one_number_do_not_share_a_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first process of every container is number 1: two of them on one volume tore the report."""
    temporaries: list[str] = []
    replace = os.replace
    monkeypatch.setattr(os, "getpid", lambda: 1)
    monkeypatch.setattr(os, "replace", lambda old, new: (temporaries.append(str(old)), replace(old, new)))
    for _ in range(2):
        write_bytes(tmp_path / "a", b"1")
    assert len(set(temporaries)) == 2


def test_write_bytes_on_a_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write_bytes(tmp_path / "a", b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/a'"):
        write_bytes(tmp_path / "a", b"new")
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


@given(st.lists(st.tuples(st.integers(0, 5), st.text(max_size=3)), min_size=2, unique=True))
def test_derive_seed_different_parts_differ_and_stay_in_range(parts: list[tuple[int, str]]) -> None:
    seeds = [derive_seed(*part) for part in parts]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**31 for seed in seeds)
