"""What dead processes left behind, and what a recovery makes of it. The kills at every step are in tests/stress."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from advlog_fast import AdvancedLogger, read_jsonl, read_run
from advlog_fast.cli import main
from advlog_fast.engine.ring import ring_name
from advlog_fast.recovery import recover
from advlog_fast.store.attempts import read_run_id
from advlog_fast.store.ledger import read_ledgers
from advlog_fast.store.paths import RunPaths
from advlog_fast.store.processes import boot_id
from advlog_fast.store.ring_note import RingNote
from advlog_fast.verification import verify

DIES = """
import os, sys
from advlog_fast import AdvancedLogger
log = AdvancedLogger(sys.argv[1], "run", console="off", memory_interval_s=0, ring_dir=sys.argv[2],
                     max_log_size=20_000, part_rows=300)
log.start_training({"seed": 1})
for batch in range(1, 501):
    log.log_batch_progress(1, batch, 500, 1.0 / batch)
    if batch == 400:
        log.flush()
log.log_error(ValueError("before the end"), operation="test")
os.kill(os.getpid(), 9)
"""


@pytest.fixture
def dead(tmp_path: Path) -> Path:
    """The folder of a run whose process was killed; its ring lies in `rings` beside it."""
    run_until_killed(DIES, tmp_path)
    return tmp_path / "logs"


def run_until_killed(code: str, folder: Path) -> None:
    command = [sys.executable, "-c", code, str(folder / "logs"), str(folder / "rings")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == -9, done.stderr


def ring_of(dead: Path) -> Path:
    (ring,) = (dead.parent / "rings").glob("*.ring")
    return ring


def whole(dead: Path) -> bool:
    """Every record is there, once."""
    return (
        [row["batch"] for row in read_jsonl(dead / "run_metrics.jsonl")] == list(range(1, 501))
        and read_run(dead, "run", attempts="all").metrics["batch"].to_pylist() == list(range(1, 501))
        and not any(not finding.explained for finding in verify(dead))
    )


def test_every_record_is_in_the_files_and_the_ring_is_gone(dead: Path):
    (found,) = recover(dead)
    assert (found.name, found.attempt, found.rank, found.outcome) == ("run", 1, 0, "recovered")
    assert found.lost_in_flight == 0
    assert whole(dead)
    assert list((dead.parent / "rings").iterdir()) == []
    summary = json.loads((dead / "run_summary.json").read_text())
    assert (summary["status"], summary["total_metrics"], summary["total_errors"]) == ("killed", 500, 1)
    lasted = datetime.fromisoformat(summary["ended_at"][:-1]) - datetime.fromisoformat(summary["started_at"][:-1])
    assert summary["duration_s"] == lasted.total_seconds()
    loss = summary["metrics"]["loss"]
    assert (loss["count"], loss["min"], loss["max"], loss["last"]) == (500, 1 / 500, 1.0, 1 / 500)
    assert loss["mean"] == summary["loss_stats"]["mean"] == pytest.approx(sum(1 / n for n in range(1, 501)) / 500)
    assert {name: summary["last"][name] for name in ("batch", "step", "loss")} == {
        "batch": 500,
        "step": 500,
        "loss": 1 / 500,
    }
    assert "before the end" in (dead / "run_errors.log").read_text()
    assert recover(dead) == []


def test_a_dry_run_changes_nothing(dead: Path, capsys: pytest.CaptureFixture[str]):
    def state() -> dict[Path, bytes]:
        files = (path for folder in (dead, dead.parent / "rings") for path in folder.rglob("*"))
        # A lock's file says who holds it.
        return {path: path.read_bytes() for path in files if path.is_file() and path.suffix != ".lock"}

    before = state()
    (found,) = recover(dead, dry_run=True)
    assert found.outcome == "recovered"
    assert "records in the ring" in found.detail
    assert state() == before
    assert main(["recover", str(dead), "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines()[0::2] == ["a recovery would say:", "nothing was changed"]
    assert recover(dead)[0].outcome == "recovered"
    assert whole(dead)


def test_the_next_start_recovers_and_begins_an_attempt_of_its_own(dead: Path):
    with AdvancedLogger(dead, "run", console="off", memory_interval_s=0) as log:
        assert log.attempt == 2
        log.log_batch_progress(1, 1, 1, 0.5)
    rows = read_jsonl(dead / "run_metrics.jsonl")
    assert [(row["attempt"], row["seq"]) for row in rows] == [*((1, seq) for seq in range(1, 501)), (2, 1)]
    events = read_jsonl(dead / "run_events.jsonl")
    assert [event["outcome"] for event in events if event["event"] == "recovered"] == ["recovered"]
    assert [f for f in verify(dead) if not f.explained] == []


@pytest.mark.parametrize("offset", [8, 16, 24, 40, 256])
def test_a_damaged_ring_is_set_aside_and_said(dead: Path, offset: int):
    with ring_of(dead).open("r+b") as ring:
        ring.seek(offset)
        ring.write(b"\xa5" * 8)
    found = recover(dead)
    assert found[0].outcome == "set aside"
    assert list((dead / ".advlog/run/set-aside").glob("*.ring.*"))
    assert "set aside" in [finding.kind for finding in verify(dead)]
    # What had been spooled is sealed all the same; nothing is left for another time.
    assert recover(dead) == []
    assert main(["recover", str(dead)]) == 0


def test_a_ring_that_is_cut_short_is_set_aside(dead: Path):
    os.truncate(ring_of(dead), 5000)
    assert recover(dead)[0].outcome == "set aside"
    assert recover(dead) == []


def test_a_note_of_another_run_is_set_aside_and_the_ring_left(dead: Path):
    file = RunPaths(dead, "run").ring_note(1)
    dataclasses.replace(RingNote.read(file), run_id="f" * 32).write(file)
    ring = ring_of(dead)
    before = ring.read_bytes()
    found = recover(dead)[0]
    assert (found.outcome, "no name of this attempt's ring" in found.detail) == ("set aside", True)
    assert ring.read_bytes() == before


def test_a_ring_is_recovered_although_the_file_with_the_runs_id_was_removed(dead: Path):
    (dead / ".advlog/run/run.json").unlink()
    assert recover(dead)[0].outcome == "recovered"


def test_a_ring_that_is_gone_is_said_and_what_was_spooled_is_sealed(dead: Path):
    ring_of(dead).unlink()
    first, *more = recover(dead)
    assert len(more) == 1
    assert (first.outcome, "was removed" in first.detail) == ("lost", True)
    assert all(found.outcome == "recovered" for found in more)
    assert json.loads((dead / "run_summary.json").read_text())["status"] == "killed"
    assert recover(dead) == []
    assert not list(RunPaths(dead, "run").spools.glob("*.spool"))
    assert "unaccounted" in [finding.kind for finding in verify(dead)]


@pytest.mark.parametrize("text", ["", "[]", '{"attempt": 1, "total_errors": "many"}'])
def test_a_summary_that_somebody_spoilt_does_not_stop_the_recovery(dead: Path, text: str):
    (dead / "run_summary.json").write_text(text)
    assert recover(dead)[0].outcome == "recovered"
    summary = json.loads((dead / "run_summary.json").read_text())
    assert (summary["status"], summary["total_metrics"], summary["total_errors"]) == ("killed", 500, 1)


def test_a_run_that_had_ended_but_for_its_note_is_not_called_lost(dead: Path):
    assert recover(dead)[0].outcome == "recovered"
    paths = RunPaths(dead, "run")
    run_id = read_run_id(paths)
    assert run_id is not None
    gone = dead.parent / "rings" / ring_name(run_id, 1, 0)
    RingNote(str(gone), "here", boot_id().hex(), run_id, {}).write(paths.ring_note(1))
    before = (dead / "run_summary.json").read_bytes()
    (found,) = recover(dead)
    assert (found.outcome, found.detail) == ("recovered", "it had ended")
    assert (dead / "run_summary.json").read_bytes() == before
    assert recover(dead) == []


def test_a_ring_on_another_machine_is_left_for_its_own(dead: Path):
    file = RunPaths(dead, "run").ring_note(1)
    note = RingNote.read(file)
    assert note.path is not None
    hidden = ring_of(dead).rename(dead.parent / "rings" / "hidden")
    dataclasses.replace(note, boot_id="aa" * 16, host="elsewhere").write(file)
    for _ in range(2):
        (found,) = recover(dead)
        assert (found.outcome, "lies on elsewhere" in found.detail) == ("lost", True)
    hidden.rename(note.path)
    assert recover(dead)[0].outcome == "recovered"
    assert whole(dead)


def test_the_files_of_an_attempt_on_another_machine_are_cut_by_a_start_here_and_by_no_recovery(dead: Path):
    """A start rotates them; without one they are their owner's, which may be alive where no locks are."""
    file = RunPaths(dead, "run").ring_note(1)
    ring_of(dead).rename(dead.parent / "rings" / "hidden")
    dataclasses.replace(RingNote.read(file), boot_id="aa" * 16, host="elsewhere").write(file)
    names = ("run_main.log", "run_errors.log", "run_events.jsonl")
    for name in names:
        with (dead / name).open("ab") as torn:
            torn.write(b"half a li")
    recover(dead)
    assert all((dead / name).read_bytes().endswith(b"\nhalf a li") for name in names)
    AdvancedLogger(dead, "run", console="off", memory_interval_s=0, ring_dir=dead.parent / "rings").close()
    assert all((dead / f"{name}.1").read_bytes().endswith(b"\n") for name in names)
    assert not any(not finding.explained for finding in verify(dead))


def test_a_ring_that_went_with_a_reboot_is_said_once(dead: Path):
    file = RunPaths(dead, "run").ring_note(1)
    ring_of(dead).unlink()
    dataclasses.replace(RingNote.read(file), boot_id="aa" * 16).write(file)
    first = recover(dead)[0]
    assert (first.outcome, "was booted again" in first.detail) == ("lost", True)
    assert not file.exists()
    assert recover(dead) == []
    kinds = {finding.kind for finding in verify(dead) if not finding.explained}
    assert "unaccounted" in kinds <= {"unaccounted", "missing"}


@pytest.mark.parametrize("content", ["", "[]", '{"path": 7}', '{"path": null}', "\udcff"])
def test_a_damaged_note_is_set_aside_and_what_was_spooled_is_sealed(dead: Path, content: str):
    paths = RunPaths(dead, "run")
    paths.ring_note(1).write_bytes(content.encode("utf-8", "surrogateescape"))
    first, *more = recover(dead)
    assert (first.outcome, [found.outcome for found in more]) == ("set aside", ["recovered"])
    assert [path.name for path in paths.quarantine.iterdir()] == ["attempt1-rank00000.json.1"]
    assert recover(dead) == []


def test_records_of_a_file_that_somebody_removed_are_known_to_have_vanished_after_a_kill(tmp_path: Path):
    code = """
import os, sys, time
from pathlib import Path
from advlog_fast import AdvancedLogger
log = AdvancedLogger(sys.argv[1], "run", console="off", memory_interval_s=0, ring_dir=sys.argv[2])
for batch in range(1, 101):
    log.log_batch_progress(1, batch, None, 0.5)
log.flush()
(Path(sys.argv[1]) / "run_metrics.jsonl").unlink()
while log.health().sinks["metrics_jsonl"].vanished == 0:
    time.sleep(0.01)
log.log_batch_progress(1, 101, None, 0.5)
os.kill(os.getpid(), 9)
"""
    run_until_killed(code, tmp_path)
    assert [found.outcome for found in recover(tmp_path / "logs")] == ["recovered"]
    account = read_ledgers(RunPaths(tmp_path / "logs", "run"))[1, 0].sinks["metrics_jsonl"]
    assert (account.accepted, account.written, account.vanished) == (101, 101, 100)
    assert [(f.kind, f.where, f.count) for f in verify(tmp_path / "logs")] == [("vanished", "metrics_jsonl", 100)]


def test_an_incomplete_recovery_says_what_could_not_be_sealed_and_the_next_one_completes_it(dead: Path):
    parts = dead / "run_metrics.parquet"
    away = parts.rename(dead / "away") if parts.exists() else None
    parts.write_text("in the way")
    (found,) = recover(dead)
    assert found.outcome == "incomplete"
    assert "could not be sealed: " in found.detail
    assert "too slow" not in found.detail
    parts.unlink()
    if away is not None:
        away.rename(parts)
    assert [found.outcome for found in recover(dead)] == ["recovered"]
    assert whole(dead)


def test_a_live_run_is_left_alone(tmp_path: Path):
    with AdvancedLogger(tmp_path, "run", console="off") as log:
        log.log_batch_progress(1, 1, 1, 0.5)
        (found,) = recover(tmp_path)
        assert (found.outcome, found.detail) == ("alive", "logged by this process")
        command = [sys.executable, "-m", "advlog_fast", "recover", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=180)
        assert (done.returncode, f"pid {os.getpid()}" in done.stdout) == (0, True)
    assert len(read_jsonl(tmp_path / "run_metrics.jsonl")) == 1


def test_a_torn_last_line_of_the_control_plane_is_cut(dead: Path):
    for name in ("run_main.log", "run_errors.log", "run_events.jsonl"):
        with (dead / name).open("ab") as file:
            file.write(b"half a li")
    recover(dead)
    for name in ("run_main.log", "run_errors.log", "run_events.jsonl"):
        content = (dead / name).read_bytes()
        assert content.endswith(b"\n")
        assert b"half a li" not in content


def test_what_dead_processes_left_in_the_temporary_folder_goes(dead: Path):
    temporary = RunPaths(dead, "run").temporary
    (temporary / "metrics-attempt1-rank00000-000001-4711.parquet").write_bytes(b"half a part")
    (temporary / "metrics-attempt1-rank00000-000001.parquet.0123456789abcdef.tmp").write_bytes(b"half a part")
    old = temporary / "attempt1-rank00007.json.0123456789abcdef.tmp"
    old.write_bytes(b"half a note")
    os.utime(old, (0, 0))
    recover(dead)
    assert list(temporary.iterdir()) == []


def test_no_directory_is_status_2(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="log_dir: expected a directory"):
        recover(tmp_path / "nowhere")
    assert main(["recover", str(tmp_path / "nowhere")]) == 2


RECOVERS = """
import resource, sys
import pyarrow.parquet
from advlog_fast.recovery import recover, replay
replay.MAX_SINK_OUTAGE_S = 0.5
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
print([found.outcome for found in recover(sys.argv[1])])
"""


def test_a_recovery_onto_a_disk_that_is_full_drops_nothing_and_is_whole_once_there_is_room(dead: Path):
    for limit in (1024, 2048):  # less than the files hold already
        command = [sys.executable, "-c", RECOVERS, str(dead), str(limit)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=180)
        assert done.stdout == "['incomplete']\n", done.stdout + done.stderr
    (found,) = recover(dead)
    assert found.outcome == "recovered"
    assert whole(dead)
    (account,) = read_ledgers(RunPaths(dead, "run")).values()
    assert not any(sink.dropped for sink in account.sinks.values())


FILLED = """
import os, resource, signal, sys
from advlog_fast import AdvancedLogger
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
log = AdvancedLogger(sys.argv[1], "run", console="off", memory_interval_s=0, ring_dir=sys.argv[2], text=False,
                     parquet=False, ring_bytes=64 * 1024, overflow="drop_newest")
log.log_batch_progress(1, 0, 500, 1.0)
log.flush()
drain = log._session.accounting.drain
drain._ending = True  # its thread ends
drain._look_now()
drain._thread.join()
slots = log.health().ring_slots
for batch in range(1, slots + 1):
    log.log_batch_progress(1, batch, slots, 1.0 / batch)
assert log.health().ring_used > slots * 7 // 8
print(log.health().accepted, flush=True)
os.kill(os.getpid(), 9)
"""

FAULTS_ONCE = """
import json, resource, signal, sys
from advlog_fast.engine.sink_files import SinkFiles
from advlog_fast.recovery import recover
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2048, resource.RLIM_INFINITY))
report = SinkFiles.report_faults
def report_and_mend(files):
    report(files)
    if any(failing for failing, _ in files._reported.values()):
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
SinkFiles.report_faults = report_and_mend
(found,) = recover(sys.argv[1])
print(json.dumps([found.outcome, found.detail]))
"""


def test_a_recovery_of_a_full_ring_drops_nothing_for_one_fault_of_the_disk(tmp_path: Path):
    command = [sys.executable, "-c", FILLED, str(tmp_path / "logs"), str(tmp_path / "rings")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == -9, done.stderr
    command = [sys.executable, "-c", FAULTS_ONCE, str(tmp_path / "logs")]
    recovered = subprocess.run(command, capture_output=True, text=True, timeout=180)
    outcome, detail = json.loads(recovered.stdout)
    assert outcome == "recovered"
    assert [fault.split(" (")[0] for fault in detail.split("; ")] == [
        "metrics_jsonl cannot be written",
        "metrics_jsonl is written again",
        "0 of its records were dropped",
    ]
    rows = list(read_jsonl(tmp_path / "logs" / "run_metrics.jsonl"))
    assert len(rows) == int(done.stdout)
    (account,) = read_ledgers(RunPaths(tmp_path / "logs", "run")).values()
    assert not any(sink.dropped for sink in account.sinks.values())


DIES_WITH_A_CHILD = """
import os, sys, time
from advlog_fast import AdvancedLogger
log = AdvancedLogger(sys.argv[1], "run", console="off", memory_interval_s=0, ring_dir=sys.argv[2], parquet=False)
log.log_batch_progress(1, 1, 9, 0.5)
log.flush()
drain = log._session.accounting.drain
drain._ending = True  # its thread ends, and takes no record of the child
drain._look_now()
drain._thread.join()
if os.fork() == 0:
    log.log_batch_progress(1, 2, 9, 0.5)
    os._exit(0)
os.wait()
os.kill(os.getpid(), 9)
"""


def test_a_damaged_ring_of_a_child_is_said(tmp_path: Path):
    run_until_killed(DIES_WITH_A_CHILD, tmp_path)
    (child,) = (tmp_path / "rings").glob("*.workers/*.ring")
    with child.open("r+b") as file:
        file.seek(8)
        file.write(b"\xff" * 4)  # the version of its layout
    (found,) = recover(tmp_path / "logs")
    assert found.outcome == "recovered"
    assert "another version laid it out" in found.detail


SYNCS = """
import os, sys
from advlog_fast.recovery import recover
synced = []
fsync = os.fsync
def count(fd):
    synced.append(os.readlink(f"/proc/self/fd/{fd}"))
    fsync(fd)
os.fsync = count
recover(sys.argv[1])
print(any(name.endswith("_metrics.jsonl") for name in synced))
"""


@pytest.mark.parametrize(("option", "synced"), [("never", False), ("interval", True), ("always", True)])
def test_a_recovery_syncs_what_it_writes_as_the_dead_process_would_have(tmp_path: Path, option: str, synced: bool):
    run_until_killed(DIES.replace("memory_interval_s=0", f"memory_interval_s=0, fsync={option!r}"), tmp_path)
    command = [sys.executable, "-c", SYNCS, str(tmp_path / "logs")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.stdout == f"{synced}\n", done.stderr
    assert whole(tmp_path / "logs")


def test_a_copy_of_a_dead_run_does_not_take_the_ring_from_the_original(dead: Path, tmp_path: Path):
    copy = Path(shutil.copytree(dead, tmp_path / "copy"))
    (found,) = recover(copy)
    assert found.outcome == "incomplete"
    assert f"this is a copy: its ring is for the files of {dead}" in found.detail
    recover(dead)
    assert whole(dead)


def test_a_dead_run_that_was_moved_is_recovered_where_it_lies(dead: Path, tmp_path: Path):
    moved = dead.rename(tmp_path / "moved")
    (found,) = recover(moved)
    assert found.outcome == "recovered"
    assert whole(moved)


def test_a_fault_in_opening_a_ring_says_nothing_of_the_ring(dead: Path):
    ring = ring_of(dead)
    held = ring.rename(ring.with_suffix(".held"))
    ring.symlink_to(held)  # refused by the system, when it is opened
    (found,) = recover(dead)
    assert found.outcome == "incomplete"
    ring.unlink()
    held.rename(ring)
    recover(dead)
    assert whole(dead)


def test_a_start_waits_for_a_recovery_that_another_process_is_at(dead: Path):
    holds = """
import sys, time
from pathlib import Path
from advlog_fast.store.locks import RECOVERING, FileLock
lock = FileLock(Path(sys.argv[1]), RECOVERING)
print("held", flush=True)
time.sleep(1)
"""
    command = [sys.executable, "-c", holds, str(RunPaths(dead, "run").lock)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with AdvancedLogger(dead, "run", console="off", max_log_files=1000) as log:
            assert log.attempt == 2
    assert whole(dead)


def test_lines_of_a_killed_attempt_that_are_gone_altogether_did_not_expire(dead: Path):
    recover(dead)
    for file in dead.glob("run_metrics.jsonl*"):
        file.unlink()
    found = [(f.kind, f.where, f.count) for f in verify(dead) if not f.explained]
    assert found == [("missing", "metrics_jsonl", 500)]


@pytest.mark.parametrize("command", ["recover", "verify"])
def test_a_run_that_is_not_there_is_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str):
    assert main([command, str(tmp_path)]) == 2
    assert "expected a directory of runs" in capsys.readouterr().err
    AdvancedLogger(tmp_path, "there", console="off").close()
    assert main([command, str(tmp_path), "--name", "typo"]) == 2
    assert "its runs are there" in capsys.readouterr().err
    assert main([command, str(tmp_path), "--name", "there"]) == 0
