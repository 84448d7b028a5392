"""Where a ring and the rings of children lie: in folders that nobody else can touch, or that somebody has removed."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from hostile_runs import PRECIOUS, batches, killed_run, run_script, start

from advlog_fast import read_jsonl
from advlog_fast.recovery import recover


@pytest.mark.parametrize("kind", ["another's", "open to others", "a link", "a file"])
def test_where_the_usual_folder_in_shared_memory_is_not_ours_alone_the_ring_lies_in_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
):
    if kind == "another's" and os.geteuid() != 0:
        pytest.skip("only root gives a folder away")
    memory, elsewhere, logs = tmp_path / "shm", tmp_path / "elsewhere", tmp_path / "logs"
    memory.mkdir()
    elsewhere.mkdir(mode=0o700)
    shared = memory / f"advlog-{os.geteuid()}"
    if kind == "a link":
        shared.symlink_to(elsewhere)
    elif kind == "a file":
        shared.write_bytes(PRECIOUS)
    else:
        shared.mkdir(mode=0o700)
        os.chmod(shared, 0o755 if kind == "open to others" else 0o700)
        if kind == "another's":
            os.chown(shared, 65534, 65534)
    before = shared.lstat()
    in_memory = f"""
    from pathlib import Path
    from advlog_fast.engine import ring_folders
    ring_folders.SHARED_MEMORY = Path({str(memory)!r})
    """
    killed_run(logs, 5, before=in_memory)
    assert not list(elsewhere.iterdir())
    assert f"{shared} cannot be used" in (logs / "run_main.log").read_text()
    monkeypatch.setattr("advlog_fast.engine.ring_folders.SHARED_MEMORY", memory)
    with start(logs) as log:
        ring = Path(str(log.health().ring_path))
        assert ring.parent != shared
        assert stat.S_IMODE(ring.parent.stat().st_mode) == 0o700
        log.log_batch_progress(1, 6, None, 0.5)
    assert batches(logs) == [1, 2, 3, 4, 5, 6]
    # What was made up goes with its ring; what was there is as it was.
    assert [path for path in memory.iterdir() if path != shared] == []
    assert (shared.lstat().st_mode, shared.lstat().st_ino) == (before.st_mode, before.st_ino)


def test_children_whose_folder_is_removed_are_told_and_what_was_met_is_taken_over(tmp_path: Path):
    """As systemd-logind removes it at a logout (RemoveIPC), under a training that goes on."""
    done = run_script(
        """
        import json, shutil, warnings
        log = AdvancedLogger(LOG_DIR, "run", console="off", parquet=False, ring_dir=os.path.join(LOG_DIR, "rings"))
        ready, go = os.pipe(), os.pipe()
        first = os.fork()
        if first == 0:
            log_batches(log, 1, 10)
            os.write(ready[1], b"x")
            os.read(go[0], 1)
            log_batches(log, 11, 500)
            os._exit(0)
        os.read(ready[0], 1)
        assert log.flush(20)
        shutil.rmtree(os.path.join(LOG_DIR, "rings"))
        second = os.fork()
        if second == 0:
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                log_batches(log, 501, 510)
                deadline = time.monotonic() + 120
                while log.health().accepted == 0 and time.monotonic() < deadline:
                    time.sleep(0.05)
                    log.log_batch_progress(2, 1, None, 0.5)
            with open(os.path.join(LOG_DIR, "told"), "w") as file:
                json.dump([[str(each.message) for each in told], log.health().accepted], file)
            os._exit(0)
        os.waitpid(second, 0)
        os.write(go[1], b"x")
        os.waitpid(first, 0)
        print(log.close())
        """,
        tmp_path,
    )
    assert done.stdout == "True\n", done.stderr
    told, accepted = json.loads((tmp_path / "told").read_text())
    assert any("was removed: what this process logs is dropped until it is made again" in each for each in told)
    assert "was removed: what children log" in (tmp_path / "run_main.log").read_text()
    rows = read_jsonl(tmp_path / "run_metrics.jsonl")
    assert sorted(row["batch"] for row in rows if row["epoch"] == 1) == list(range(1, 501))
    assert len([row for row in rows if row["epoch"] == 2]) == accepted > 0


def test_a_strangers_ring_is_not_mapped_even_by_root(tmp_path: Path):
    from advlog_fast.engine.ring import Ring
    from advlog_fast.store.files import NotOursError

    if os.geteuid() != 0:
        pytest.skip("only root gives a file away")
    killed_run(tmp_path, options=f"parquet=False, ring_dir={str(tmp_path / 'rings')!r}")
    (ring,) = (tmp_path / "rings").glob("*.ring")
    os.chown(ring, 65534, 65534)
    with pytest.raises(NotOursError, match="expected a file of user 0, got one of user 65534"):
        Ring.mapped(ring)
    (found,) = recover(tmp_path)
    assert found.outcome == "incomplete"  # its owner recovers it
    os.chown(ring, 0, 0)
    assert recover(tmp_path)[0].outcome == "recovered"


def test_root_goes_on_with_a_users_run(tmp_path: Path):
    """As a container does, with the logs of its host."""
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    for batch in range(1, 4):
        with start(tmp_path, max_log_files=2) as log:
            log.log_batch_progress(1, batch, None, 0.5)
        for path in (tmp_path, *tmp_path.rglob("*")):
            os.lchown(path, 65534, 65534)
    assert batches(tmp_path) == [2, 3]
    assert sorted(path.name for path in tmp_path.glob("run_main.log*")) == ["run_main.log", "run_main.log.1"]


def test_a_ring_lies_in_no_folder_that_others_can_write(tmp_path: Path):
    tmp_path.chmod(0o1777)
    with start(tmp_path / "logs", ring_dir=tmp_path) as log:
        ring = Path(str(log.health().ring_path))
        assert ring.parent == tmp_path / f"advlog-{os.geteuid()}"
        assert stat.S_IMODE(ring.parent.stat().st_mode) == 0o700
