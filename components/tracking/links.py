"""Addresses of MLflow's pages, for reports and for people. Knows no store but by its address."""

import json
from collections.abc import Sequence
from urllib.parse import quote, urlsplit

from components.tracking.views import VIEW_KEY


def is_server(uri: str) -> bool:
    """Whether a store is behind an MLflow server, which has pages, and not a database that is opened directly."""
    return uri.startswith(("http://", "https://"))


def experiment_url(uri: str, experiment_id: str) -> str:
    """Page that shows a campaign's rounds side by side, if `uri` is an MLflow server's address; else `uri`, which has no pages."""
    # Without the work flow in the address a fresh browser lands on the overview of traces, whatever the experiment's tags say.
    return _page(uri, f"experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={VIEW_KEY}")


def compare_url(uri: str, experiment_id: str, run_ids: Sequence[str]) -> str:
    """Page that sets runs side by side, if `uri` is an MLflow server's address; else `uri`, which has no pages."""
    return compare_rounds_url(uri, [(experiment_id, run_id) for run_id in run_ids])


def compare_rounds_url(uri: str, rounds: Sequence[tuple[str, str]]) -> str:
    """The same for runs of several experiments.

    Args:
        uri: Address of the store.
        rounds: Ids of experiment and run, in the order of the page's columns.
    """
    named = [run_id for _, run_id in rounds], list(dict.fromkeys(experiment_id for experiment_id, _ in rounds))
    runs, experiments = (quote(json.dumps(ids, separators=(",", ":"))) for ids in named)
    # The work flow again: without it, whatever is opened from this page stands among the pages for language model applications.
    return _page(uri, f"compare-runs?runs={runs}&experiments={experiments}&workflowType=machine_learning")


def _page(uri: str, path: str) -> str:
    address = without_password(uri)
    return f"{address.rstrip('/')}/#/{path}" if is_server(uri) else address


def without_password(uri: str) -> str:
    """The address as it may be shown: user name and password are left out."""
    parts = urlsplit(uri)
    return uri.replace(f"{parts.netloc}", parts.netloc.rpartition("@")[2], 1) if "@" in parts.netloc else uri
