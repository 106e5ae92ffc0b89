"""What many tests stand on: a quickly trained start model, and quiet, offline libraries."""

import os

# Models this small gain little from a second thread, and beside another busy process two threads are several times slower than one.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["DO_NOT_TRACK"] = "true"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.pop("MLFLOW_TRACKING_URI", None)

from pathlib import Path

import pytest

from components.launch import keep_freed_memory

keep_freed_memory()


@pytest.fixture(scope="session")
def starter_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A start model of the built-in world after a few steps: the real architecture and tokenizer, hardly trained."""
    from components.builtin.starter import build_starter

    directory = tmp_path_factory.mktemp("starter") / "model"
    build_starter(directory, steps=150)
    return directory
