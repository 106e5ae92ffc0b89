"""Seconds and peak memory of `ratchet validate` on a million rows with the lengths of UltraFeedback; into runs/bench.

    .venv/bin/python tests/benchmarks/validate_file.py [--rows 1000000] [--form parquet] [--keep DIR]
    .venv/bin/python tests/benchmarks/validate_file.py --rows 200000 --pairs hh.jsonl.gz   # the schema part of a file

The rows are made up here: prompts of some 700 characters and answers of some 1,700, half of them words that English has
most, half of a vocabulary as large and as skewed as a language's. The schema part, which is to read rows as pairs and
check their form, is timed alone, in the seconds of one core.
"""

import argparse
import gzip
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components.checks.entries import CHECKED_COLUMNS, read_entries
from components.checks.form import malformed
from components.config import ChecksConfig
from components.data.row_batches import RowSource

BATCH = 10_000
VOCABULARY = 40_000
FREQUENT = (
    "the of and to in a is that for it as was with be by on not he this are or his from at which but have an had they "
    "you were there one all we can her has been if more when will would who so no out up into them then some could"
)
SYLLABLES = "ba con der el fi gra ho in ja ko lin mo ne or pra qui ro sta tu ver wi zen al be cu do es fo ga har"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--form", choices=("parquet", "chat", "jsonl"), default="parquet")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--pairs", type=Path, help="a packed file of JSON lines, whose rows are repeated")
    options = parser.parse_args()
    if options.pairs is not None:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "pairs.jsonl.gz"
            repeat(options.pairs, path, options.rows)
            print(f"schema part: {schema_rate(path, options.rows):,.0f} rows per second on one core", flush=True)
        return
    with tempfile.TemporaryDirectory() as scratch:
        place = options.keep or Path(scratch)
        path = place / f"pairs-{options.form}-{options.rows}.{'jsonl' if options.form == 'jsonl' else 'parquet'}"
        if not path.exists():
            make(path, options.rows, options.form)
        print(f"{path.name}: {path.stat().st_size / 2**20:,.0f} MiB", flush=True)
        rate = schema_rate(path, min(options.rows, 100_000))
        print(f"schema part: {rate:,.0f} rows per second on one core", flush=True)
        print(json.dumps(whole(path, place / "report") | {"rows": options.rows, "schema_rows_per_second": rate}))


def repeat(source: Path, path: Path, rows: int) -> None:
    """Write the rows of a file again and again."""
    lines = gzip.decompress(source.read_bytes()).splitlines(keepends=True)
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.writelines(itertools.islice(itertools.cycle(lines), rows))


def make(path: Path, rows: int, form: str) -> None:
    """Write made-up pairs, a batch at a time."""
    chance = np.random.default_rng(1)
    syllables = np.array(SYLLABLES.split())
    rare = ["".join(chance.choice(syllables, chance.integers(2, 5))) for _ in range(VOCABULARY)]
    words = np.array([*FREQUENT.split(), *rare], dtype=object)
    reached = np.cumsum(1 / (np.arange(len(words)) + 3))

    def texts(number: int, mean: int) -> list[str]:
        lengths = np.maximum(8, chance.normal(mean, mean / 3, number)).astype(int)
        drawn = words[np.searchsorted(reached, chance.random(lengths.sum()) * reached[-1])]
        return [f"{' '.join(part)}." for part in np.split(drawn, np.cumsum(lengths)[:-1])]

    writer, file = None, None
    for first in range(0, rows, BATCH):
        number = min(BATCH, rows - first)
        batch = [
            row(*three, form=form)
            for three in zip(texts(number, 120), texts(number, 290), texts(number, 290), strict=True)
        ]
        if form == "jsonl":
            file = file or path.open("w")
            file.writelines(json.dumps(each) + "\n" for each in batch)
            continue
        table = pa.Table.from_pylist(batch)
        writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
        writer.write_table(table)
    for opened in (writer, file):
        if opened is not None:
            opened.close()


def row(prompt: str, chosen: str, rejected: str, *, form: str) -> dict[str, object]:
    """Return a row, in plain text or as UltraFeedback's binarised form has it."""
    if form != "chat":
        return {"prompt": prompt, "chosen": chosen, "rejected": rejected, "source": "abc"[len(prompt) % 3]}
    turns = {
        side: [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        for side, answer in (("chosen", chosen), ("rejected", rejected))
    }
    return {"prompt": prompt, **turns, "score_chosen": 8.0, "score_rejected": 6.5}


def schema_rate(path: Path, rows: int) -> float:
    """Return how many rows per second are read as pairs and checked for their form."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    config, done, started = ChecksConfig(), 0, time.process_time()
    for batch in RowSource(str(path), split="train").batches(size=1024, columns=CHECKED_COLUMNS):
        list(malformed(read_entries(batch), config))
        done += len(batch)
        if done >= rows:
            break
    seconds = time.process_time() - started
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    return done / seconds


def whole(path: Path, out: Path) -> dict[str, float]:
    """Run the command; return its seconds, and the peak of the resident memory of it and its processes together."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "flows.cli", "validate", str(path), "--report", str(out)]
    process = subprocess.Popen(command)
    peak = 0
    while process.poll() is None:
        peak = max(peak, resident(process.pid))
        time.sleep(0.5)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_gib": peak / 2**30,
        "exit_code": process.returncode,
    }


def resident(pid: int) -> int:
    """Return the bytes of a process and its children; pages that they share count once for each."""
    import psutil

    try:
        process = psutil.Process(pid)
        return sum(each.memory_info().rss for each in [process, *process.children(recursive=True)])
    except psutil.NoSuchProcess:
        return 0


if __name__ == "__main__":
    main()
