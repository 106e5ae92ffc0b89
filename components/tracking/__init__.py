"""Record the files of runs/<campaign>/ in MLflow. This is the only package that imports mlflow.

The files are the truth. Everything here can be repeated: a round that was recorded, or half recorded, is found by its
tags, and only what is missing is added. Importing this package loads mlflow (about two seconds), so callers import it
only when they need it.
"""

from components.tracking.cleanup import collect_copies
from components.tracking.recording import Tracked, announce_champion, record_round
from components.tracking.registry import Version, read_versions
from components.tracking.store import TrackingUnavailable, ensure_store, tracking_uri
from components.tracking.views import compare_rounds_url, compare_url, experiment_url, is_server

__all__ = [
    "Tracked",
    "TrackingUnavailable",
    "Version",
    "announce_champion",
    "collect_copies",
    "compare_rounds_url",
    "compare_url",
    "ensure_store",
    "experiment_url",
    "is_server",
    "read_versions",
    "record_round",
    "tracking_uri",
]
