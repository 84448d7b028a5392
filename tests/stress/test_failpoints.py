"""A SIGKILL at every step of a run, and of its recovery: nothing acknowledged is lost, doubled or torn.

Which record a thread was logging when it died is not known to it: at most one beyond the acknowledged is there.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from stress.harness import Trial, Zygote, check_readable

from advlog_fast.verification import verify

CHECKOUT = Path(__file__).resolve().parents[2]

# Small files and parts, so that rotation and sealing happen all the time; a ring that wraps often.
OPTIONS = {"max_log_size": 8192, "part_rows": 300, "ring_bytes": 64 * 1024}
RECORDS = 2000

START = ["start_locked", "start_recovered", "claim_written", "claim_linked", "ring_allocated", "ring_noted"]
START += ["ring_published", "start_ring", "start_files", "file_opened", "rotate_before_rename", "rotate_renamed"]
PUSH = ["name_added", "push_reserved", "push_part_published", "push_before_header", "push_published"]
DRAIN = ["drain_counted", "sink_formatted", "sink_write_part", "sink_written", "commit_copied", "commit_selected"]
DRAIN += ["drain_before_release", "drain_released", "spool_begun", "switch_before_commit", "switch_committed"]
ROTATION = ["file_taken_over", "file_published", "rotate_shifting"]
SEAL = ["seal_begin", "seal_written", "seal_synced", "seal_renamed", "seal_before_unlink", "seal_unlinked"]
SEAL += ["schema_written", "schema_linked"]
CLOSE = ["close_begun", "close_drained", "close_sealed", "close_summarized", "account_written", "close_accounted"]
CLOSE += ["ring_removing"]
RECOVERY = ["repair_marking", "repair_marked", "repair_done", "recover_repaired", "recover_cut", "recover_resumed"]
RECOVERY += ["recover_replayed", "recover_sealed", "recover_accounted", "recover_summarized"]
# Steps of a run that a recovery takes too; it follows the ring before its first pass.
AGAIN = [*DRAIN[1:], *ROTATION, *SEAL, "rotate_before_rename", "rotate_renamed", "account_written", "ring_removing"]

ONCE = {*START, *CLOSE, "schema_written", "schema_linked"} - {"file_opened", "rotate_before_rename", "rotate_renamed"}
TRIMMED = ["rotate_trimmed"]
COMPACTION = ["compact_begun", "compact_written", "compact_built", "compact_away", "compact_swapped", "schema_remade"]
COMPACTION += ["compact_frozen", "compact_removed", "compact_moved", "compact_emptied"]  # in test_compaction.py
EXPORT = ["export_planned", "export_sent", "export_accepted", "export_saved", "export_closed"]  # in integrations/
SLAB = ["slab_filled"]  # in tests/c/test_slab.c
HANDOFF = ["handoff_reserved", "handoff_noted", "handoff_slot", "handoff_taken"]  # in test_workers.py


def test_every_failpoint_is_tried():
    """One that is added to the code must be added here too."""
    sources = [*(CHECKOUT / "csrc").glob("*.[ch]"), *(CHECKOUT / "advlog_fast").rglob("*.py")]
    there = {n for s in sources for n in re.findall(r'\b(?:FAILPOINT|failpoint)\("(\w+)"\)', s.read_text())}
    elsewhere = {*TRIMMED, *HANDOFF, *COMPACTION, *EXPORT, *SLAB}
    assert there == {*START, *PUSH, *DRAIN, *ROTATION, *SEAL, *CLOSE, *RECOVERY, *elsewhere}


def die(zygote: Zygote, folder: Path, setting: str, **task: object) -> tuple[Trial, bool]:
    """A run that is killed at a point, if it passes it so often; whether it did."""
    trial = Trial(folder, failpoint=setting, records=RECORDS, options=OPTIONS, events=True, **task)
    status = zygote.run(trial.task)
    assert status in (0, -9), trial.said()
    if trial.log_dir.exists():
        check_readable(trial.log_dir)
        verify(trial.log_dir)  # a run that is not recovered yet can be looked at
    return trial, status == -9


def check(trial: Trial, zygote: Zygote) -> None:
    if trial.log_dir.exists():
        assert zygote.run(trial.recovery()) == 0, trial.said()
        trial.check()
    assert trial.phase or not trial.acknowledged()


def passings(point: str, long: bool) -> tuple[int, ...]:
    if point in ONCE:
        return (1, 2, 3) if long else (1,)
    return (1, 2, 3, 5, 8, 13, 21, 40, 100, 400) if long else (5,)


@pytest.mark.parametrize("long", [False, pytest.param(True, marks=pytest.mark.stress)])
@pytest.mark.parametrize("point", list(dict.fromkeys([*START, *PUSH, *DRAIN, *ROTATION, *SEAL, *CLOSE])))
def test_a_run_killed_at_a_point_is_whole_after_its_recovery(
    failing_zygote: Zygote, tmp_path: Path, point: str, long: bool
):
    killed = 0
    for number in passings(point, long):
        trial, there = die(failing_zygote, tmp_path / "trial", f"{point}:{number}")
        killed += there
        try:
            check(trial, failing_zygote)
        finally:
            trial.clean()
    assert killed, f"the run never passes {point}"


# What the run was doing when it died decides which steps its recovery has to take. At the first write no part stands
# yet, and no schema.
DEATHS = ("push_part_published:150", "sink_written:25", "seal_renamed:2", "switch_committed:30", "sink_written:1")


@pytest.mark.parametrize("long", [False, pytest.param(True, marks=pytest.mark.stress)])
@pytest.mark.parametrize("point", [*RECOVERY, *dict.fromkeys(AGAIN)])
def test_a_recovery_killed_at_a_point_is_whole_when_run_again(
    failing_zygote: Zygote, tmp_path: Path, point: str, long: bool
):
    killed: Counter[str] = Counter()
    deaths = DEATHS if long else (DEATHS[not point.startswith("repair_mark")],)
    for death in deaths:
        for number in (1, 2, 3, 5) if long else (1,):
            trial, _ = die(failing_zygote, tmp_path / "trial", death)
            try:
                status = failing_zygote.run(trial.recovery(failpoint=f"{point}:{number}"))
                assert status in (0, -9), trial.said()
                killed[death] += status == -9
                check_readable(trial.log_dir)
                verify(trial.log_dir)
                check(trial, failing_zygote)
            finally:
                trial.clean()
    if long or point in RECOVERY:
        assert killed.total(), f"no recovery ever passes {point}"


@pytest.mark.parametrize("number", [4, 9])
def test_what_a_kill_in_the_middle_of_expiry_leaves_is_explained(failing_zygote: Zygote, tmp_path: Path, number: int):
    """The counter of a file that goes is stored after the file went: the last may be missing from it."""
    options = {**OPTIONS, "max_log_files": 3, "parquet": False}
    trial = Trial(tmp_path / "trial", failpoint=f"rotate_trimmed:{number}", records=RECORDS, options=options)
    try:
        assert failing_zygote.run(trial.task) == -9
        assert failing_zygote.run(trial.recovery()) == 0, trial.said()
        found = verify(trial.log_dir)
        assert [f for f in found if not f.explained] == [], "\n".join(map(str, found))
        assert any(f.kind == "expired" for f in found)
    finally:
        trial.clean()
