"""Every system call that opens for writing, cuts, renames or removes, from start to compaction: on what, and how."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from advlog_fast import read_run

CALLS = (
    "open,openat,openat2,creat,truncate,ftruncate,unlink,unlinkat,rmdir,mkdir,mkdirat,rename,renameat,renameat2,link,"
    "linkat,symlink,symlinkat"
)
BATCHES = 3000

LOGS = """
import os, signal, sys
from advlog_fast import AdvancedLogger
log_dir, ring_dir, first, last, ending = sys.argv[1:]
log = AdvancedLogger(
    log_dir, "run", console="off", ring_dir=ring_dir or None, max_log_size=30_000, max_log_files=3, part_rows=500,
    fsync="interval",
)
log.start_training({"lr": 0.1})
for batch in range(int(first), int(last) + 1):
    log.log_batch_progress(1, batch, None, batch / 8)
    if batch % 500 == 0:
        log.log_event("passed", batch=batch)
log.log_error(ValueError("x"), "op")
child = os.fork()
if child == 0:
    log.log_batch_progress(2, 1, None, 0.5)
    os._exit(0)
os.waitpid(child, 0)
log.flush()
if ending == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
log.end_training({"loss": 0.5})
log.load_state_dict(log.state_dict())
log.close()
"""

_CALL = re.compile(r"(?P<time>[\d.]+) (?P<call>\w+)\((?P<arguments>.*)\) += (?P<result>-?\d+)(?:<.*>)?(?: .*)?\Z")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
_FD_PATH = re.compile(r"\d+<([^>]*)>")


@dataclass
class Walk:
    """What the calls did, in their order, to the paths below `roots`."""

    roots: tuple[Path, ...]
    made: set[str] = field(default_factory=set)
    findings: list[str] = field(default_factory=list)
    seen: dict[str, int] = field(default_factory=dict)

    def step(self, call: str, arguments: str) -> None:
        paths = [path for path in _STRING.findall(arguments) if self._is_below(path)]
        if call == "ftruncate":
            paths = [path for path in _FD_PATH.findall(arguments) if self._is_below(path)]
        if not paths:
            return
        self.seen[call] = self.seen.get(call, 0) + 1
        if call in ("open", "openat", "openat2", "creat"):
            self._opened(paths[0], arguments)
        elif call in ("mkdir", "mkdirat", "symlink", "symlinkat"):
            self.made.add(paths[-1])
        elif call in ("link", "linkat"):
            if "AT_SYMLINK_FOLLOW" in arguments:
                self.findings.append(f"linked through a link: {arguments}")
            self._on_own(call, paths[0])
            self.made.add(paths[-1])
        elif call.startswith("rename"):
            # A compaction exchanges a dataset's folder whole, and gives back what else lay in it.
            if paths[1] not in self.planted:
                self._on_own(call, paths[0])
            if "RENAME_EXCHANGE" in arguments:
                self._on_own(call, paths[1])
                self._renamed(paths[1], paths[0])
            self._renamed(paths[0], paths[1])
        else:
            self._on_own(call, paths[0])

    def _opened(self, path: str, arguments: str) -> None:
        if not re.search(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC|O_APPEND", arguments):
            return
        for flag in ("O_NOFOLLOW", "O_CLOEXEC"):
            if flag not in arguments:
                self.findings.append(f"opened for writing without {flag}: {arguments}")
        if "O_EXCL" in arguments or path not in self.planted:
            self.made.add(path)
        else:
            self.findings.append(f"opened for writing, and not ours: {arguments}")

    def _renamed(self, path: str, target: str) -> None:
        for below in [name for name in self.made if name == path or name.startswith(path + "/")]:
            self.made.add(target + below[len(path) :])

    def _on_own(self, call: str, path: str) -> None:
        if path not in self.made:
            self.findings.append(f"{call} of what is not ours: {path}")

    def _is_below(self, path: str) -> bool:
        return any(Path(path) == root or root in Path(path).parents for root in self.roots)

    planted: frozenset[str] = frozenset()


def traced_calls(folder: Path) -> Iterator[tuple[str, str]]:
    """The calls of all processes that came to something, in the order of their times."""
    found = []
    for file in folder.iterdir():
        for line in file.read_text(errors="replace").splitlines():
            match = _CALL.match(line)
            if match and int(match["result"]) >= 0:
                found.append((float(match["time"]), match["call"], match["arguments"]))
    for _, call, arguments in sorted(found, key=lambda each: each[0]):
        yield call, arguments


def test_nothing_is_opened_through_a_link_and_nothing_removed_that_was_not_made(tmp_path: Path):
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("needs strace (Debian: apt install strace)")
    if subprocess.run([strace, "-o", "/dev/null", "true"], capture_output=True).returncode:
        pytest.skip("processes cannot be traced here")
    log_dir, rings, traces = tmp_path / "logs", tmp_path / "rings", tmp_path / "traces"
    for folder in (log_dir, rings, traces):
        folder.mkdir()
    program = tmp_path / "logs.py"
    program.write_text(LOGS)
    python, advlog = [sys.executable], [sys.executable, "-m", "advlog_fast"]

    def run(number: int, *command: str | Path, expect: int = 0) -> None:
        options = [strace, "-ff", "-ttt", "-y", "-s", "4096", "-e", f"trace={CALLS}", "-o", traces / str(number)]
        done = subprocess.run([*map(str, options), *map(str, command)], capture_output=True, text=True, timeout=300)
        assert done.returncode == expect, done.stderr

    run(1, *python, program, log_dir, "", 1, BATCHES, "close")
    planted = [
        *(
            log_dir / name
            for name in ("checkpoint.pt", "run_errors.log.77", "run_main.log.77", "run_main.log.bak", "run_notes.txt")
        ),
        *(log_dir / "run_metrics.parquet" / name for name in ("_metadata", "attempt-1/mine.parquet.bak")),
        *(log_dir / ".advlog/run" / name for name in ("mine", "tmp/mine.tmp", "spool/mine", "rings/mine.bak")),
        rings / "mine.ring",
    ]
    for file in planted:
        file.write_bytes(b"the user's")
    run(2, *python, program, log_dir, rings, BATCHES + 1, 2 * BATCHES, "kill", expect=-9)
    run(3, *advlog, "recover", log_dir)
    run(4, *python, program, log_dir, "", 2 * BATCHES + 1, 3 * BATCHES, "kill", expect=-9)
    run(5, *python, program, log_dir, rings, 3 * BATCHES + 1, 4 * BATCHES, "close")
    run(6, *advlog, "compact", log_dir)
    run(7, *advlog, "verify", log_dir)
    run(8, *advlog, "show", log_dir, "run")
    run(9, *python, program, log_dir, "", 4 * BATCHES + 1, 5 * BATCHES, "close")

    shared = Path(f"/dev/shm/advlog-{os.geteuid()}")  # noqa: S108 - looked at, not used
    walk = Walk((log_dir, rings, shared), planted=frozenset(map(str, planted)))
    walk.made.add(str(rings))
    for call, arguments in traced_calls(traces):
        walk.step(call, arguments)
    assert walk.findings == []
    assert [file.read_bytes() for file in planted] == [b"the user's"] * len(planted)
    # What it stands on: that calls of each kind were seen at all.
    assert walk.seen["openat"] > 300
    assert walk.seen.get("link", 0) + walk.seen.get("linkat", 0) > 5
    assert min(walk.seen.get(call, 0) for call in ("rename", "unlink", "mkdir", "rmdir")) > 5
    assert len(read_run(log_dir, "run", attempts="all").metrics) == 5 * (BATCHES + 1)
