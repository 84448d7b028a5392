"""What `advlog verify` says of files that are whole, and of files that somebody or something has harmed."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from advlog_fast import AdvancedLogger
from advlog_fast.cli import main
from advlog_fast.store.ledger import SinkLedger, read_ledgers, write_ledger
from advlog_fast.store.paths import RunPaths
from advlog_fast.verification import Difference, verify
from advlog_fast.verification.seqs import Seqs

RECORDS = 1000


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "logs"
    log_run(folder)
    return folder


@pytest.fixture
def run(whole_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole_run, tmp_path / "logs"))


def log_run(folder: Path, records: int = RECORDS, **options: object) -> None:
    settings = {"max_log_size": 20_000, "max_log_files": 1000, "part_rows": 300, "memory_interval_s": 0, **options}
    with AdvancedLogger(folder, "run", console="off", **settings) as log:  # type: ignore[arg-type]
        for batch in range(1, records + 1):
            log.log_batch_progress(1, batch, records, 1.0 / batch)
        log.log_performance_metrics(0.1, 0.2)


def told(differences: list[Difference], *, explained: bool | None = None) -> list[tuple[str, str, int]]:
    return [(f.kind, f.where, f.count) for f in differences if explained is None or f.explained == explained]


def files_of(run: Path) -> list[Path]:
    return sorted(run.glob("run_metrics.jsonl.*"), key=lambda path: int(path.suffix[1:]))


def test_nothing_is_said_of_a_run_that_is_whole(whole_run: Path, capsys: pytest.CaptureFixture[str]):
    assert verify(whole_run) == []
    assert main(["verify", str(whole_run)]) == 0
    assert capsys.readouterr().out == "every record is in its place, once\n"


def test_a_directory_that_is_not_there_is_status_2(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="log_dir: expected a directory"):
        verify(tmp_path / "nowhere")
    assert main(["verify", str(tmp_path / "nowhere")]) == 2


def test_records_that_somebody_removed_are_missing(run: Path, capsys: pytest.CaptureFixture[str]):
    lines = files_of(run)[2].read_bytes().splitlines(keepends=True)
    files_of(run)[2].write_bytes(b"".join(lines[:10] + lines[13:]))
    assert told(verify(run)) == [("missing", "metrics_jsonl", 3)]
    assert main(["verify", str(run)]) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("WRONG: run attempt 1 rank 0 metrics_jsonl: 3 missing (seq ")
    assert out[-1] == "lines above: 1 missing"


@pytest.mark.parametrize(
    ("where", "remove"),
    [
        ("metrics_jsonl", lambda run: files_of(run)[-1]),
        ("metrics_jsonl", lambda run: run / "run_metrics.jsonl"),
        ("metrics_parquet", lambda run: run / "run_metrics.parquet/attempt-1/rank00000-000001.parquet"),
        ("metrics_parquet", lambda run: run / "run_metrics.parquet/attempt-1/rank00000-000003.parquet"),
        ("system_parquet", lambda run: run / "run_system.parquet/attempt-1/rank00000-000001.parquet"),
    ],
)
def test_a_whole_file_that_is_gone_is_missing(run: Path, where: str, remove: Callable[[Path], Path]):
    remove(run).unlink()
    ((kind, sink, count),) = told(verify(run))
    assert (kind, sink) == ("missing", where)
    assert count > 0


def test_records_that_stand_twice_are_doubled(run: Path):
    lines = files_of(run)[0].read_bytes().splitlines(keepends=True)
    with (run / "run_metrics.jsonl").open("ab") as file:
        file.write(b"".join(lines[:7]))
    assert told(verify(run)) == [("doubled", "metrics_jsonl", 7)]
    first = run / "run_metrics.parquet/attempt-1/rank00000-000001.parquet"
    shutil.copy(first, first.with_name("rank00000-000009.parquet"))
    assert ("doubled", "metrics_parquet", 300) in told(verify(run))


def test_torn_and_unparsable_lines_are_said(run: Path):
    path = run / "run_metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"timestamp":"2026')
    assert told(verify(run)) == [("torn", "run_metrics.jsonl", 1)]
    path.write_bytes(whole + b"what is this\n" + b'{"attempt":1,"rank":0}\n')
    assert told(verify(run)) == [("unparsable", "run_metrics.jsonl", 2)]
    path.write_bytes(whole)
    with (run / "run_training.log").open("ab") as file:
        file.write(b"half a li")
    assert told(verify(run)) == [("torn", "run_training.log", 1)]


def test_a_part_that_cannot_be_read_is_said_and_its_records_are_missing(run: Path):
    part = run / "run_metrics.parquet/attempt-1/rank00000-000002.parquet"
    part.write_bytes(part.read_bytes()[:-100])
    assert told(verify(run)) == [
        ("unreadable", "attempt-1/rank00000-000002.parquet", 1),
        ("missing", "metrics_parquet", 300),
    ]


def test_what_rotation_removed_is_explained(tmp_path: Path):
    log_run(tmp_path, max_log_files=3)
    found = verify(tmp_path)
    assert told(found, explained=False) == []
    ((kind, where, count),) = told(found)
    assert (kind, where) == ("expired", "metrics_jsonl")
    assert count == read_ledgers(RunPaths(tmp_path, "run"))[1, 0].sinks["metrics_jsonl"].expired > 0
    # A later attempt rotates the earlier one's files away: its account is not written again.
    log_run(tmp_path, max_log_files=2)
    assert told(verify(tmp_path), explained=False) == []


def change_account(run: Path, sink: str, **change: int) -> None:
    paths = RunPaths(run, "run")
    account = read_ledgers(paths)[1, 0]
    changed = {**account.sinks, sink: dataclasses.replace(account.sinks[sink], **change)}
    write_ledger(paths, 1, dataclasses.replace(account, sinks=changed))


def test_only_a_counter_explains_a_gap(run: Path):
    lines = files_of(run)[1].read_bytes().splitlines(keepends=True)
    files_of(run)[1].write_bytes(b"".join(lines[:5] + lines[9:]))
    change_account(run, "metrics_jsonl", dropped=4, written=RECORDS - 4)
    assert told(verify(run)) == [("dropped", "metrics_jsonl", 4)]
    change_account(run, "metrics_jsonl", dropped=3, written=RECORDS - 3)
    assert told(verify(run), explained=False) == [("missing", "metrics_jsonl", 1)]
    change_account(run, "metrics_jsonl", dropped=5, written=RECORDS - 5)
    assert told(verify(run), explained=False) == [("unbalanced", "metrics_jsonl", 1)]


@pytest.mark.parametrize(
    "change", [{"written": RECORDS - 1}, {"accepted": RECORDS - 1, "written": RECORDS - 1}, {"dropped": -1}]
)
def test_an_account_that_contradicts_itself_or_the_files_is_said(run: Path, change: dict[str, int]):
    change_account(run, "metrics_parquet", **change)
    assert "unbalanced" in [kind for kind, _, _ in told(verify(run), explained=False)]


def test_a_damaged_account_is_said(run: Path):
    RunPaths(run, "run").ledger(1).write_text("{")
    kinds = [kind for kind, _, _ in told(verify(run), explained=False)]
    assert kinds == ["unreadable", "unaccounted"]


def test_a_live_run_is_pending_and_nothing_of_it_is_wrong(tmp_path: Path):
    with AdvancedLogger(tmp_path, "run", console="off", memory_interval_s=0) as log:
        for batch in range(1, 101):
            log.log_batch_progress(1, batch, None, 0.5)
        assert log.flush()
        log.log_batch_progress(1, 101, None, 0.5)
        found = verify(tmp_path)
        assert told(found) == [("pending", "ring", 0)]
        assert "metrics_jsonl up to 10" in found[0].detail
        assert "metrics_parquet up to 10" in found[0].detail  # from the spool
        assert main(["verify", str(tmp_path), "--name", "run"]) == 0
    assert verify(tmp_path) == []


def test_a_run_without_account_and_ring_is_said_and_its_sinks_are_compared(run: Path):
    RunPaths(run, "run").ledger(1).unlink()
    (run / "run_metrics.parquet/attempt-1/rank00000-000004.parquet").unlink()
    assert told(verify(run)) == [("unaccounted", "ring", 0), ("missing", "metrics_parquet", 100)]


def test_what_was_set_aside_is_said(run: Path):
    private = RunPaths(run, "run").private
    (private / "set-aside").mkdir()
    (private / "set-aside" / "some.ring.1").write_bytes(b"")
    (private / "spool" / "metrics-attempt1-rank00000-000009.spool.damaged").write_bytes(b"")
    assert [kind for kind, _, _ in told(verify(run), explained=False)] == ["damaged", "set aside"]


def test_ranges_say_what_was_met_once_and_twice():
    seqs = Seqs()
    for first, last in ((5, 9), (10, 12), (20, 30), (1, 4), (13, 13), (8, 10), (40, 40)):
        seqs.add(first, last)
    assert seqs.ranges == [(1, 13), (20, 30), (40, 40)]
    assert (seqs.present, seqs.doubled, seqs.first_doubled) == (25, 3, 8)
    assert seqs.gaps(45) == [(14, 19), (31, 39), (41, 45)]


def test_an_account_is_written_as_it_is_read(tmp_path: Path):
    paths = RunPaths(tmp_path, "run")
    paths.private.mkdir(parents=True)
    log_run(tmp_path, records=3)
    account = read_ledgers(paths)[1, 0]
    assert account.sinks["metrics_parquet"] == SinkLedger(3, 3, 0, 0)
    assert json.loads(paths.ledger(1).read_text())["status"] == "completed"
