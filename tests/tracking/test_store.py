"""Where the store is, and that a half made one is never opened."""

from pathlib import Path

import pytest

from components.tracking import ensure_store, tracking_uri


class Killed(BaseException):
    """Ends the process for the test."""


def test_ensure_store_killed_while_making_it_leaves_no_half_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class DiesHalfWay:
        def __init__(self, uri: str) -> None:
            Path(uri.removeprefix("sqlite:///")).write_text("half of the tables")
            raise Killed

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("components.tracking.store.MlflowClient", DiesHalfWay)
    with pytest.raises(Killed):
        ensure_store(tmp_path)
    assert not (tmp_path / "mlflow.db").exists()


def test_tracking_uri_is_the_environments_or_the_file_beside_the_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert tracking_uri(Path("runs")) == f"sqlite:///{tmp_path}/runs/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert tracking_uri(Path("runs")) == "http://tracking:5000"
