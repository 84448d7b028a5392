"""Makes the archives of this folder: `python make_files.py`, with the version installed whose files are to be kept.

- `run.tar.xz`: two ranks, two attempts, the second resumed; rotated text, errors, events, system samples.
- `killed.tar.xz`: a process killed with records in its ring, in a child's ring, in spools and in rotated text files.
- `compacted.tar.xz`: a run of many parts and a late metric, compacted.

`made.json` beside the logs of the killed run holds what a move to another machine changes: its folder, and the device
and inode of each file. tests/unit/test_earlier_files.py renews them, and reads all three.
"""

import io
import json
import lzma
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

RANK = """
import json, os, sys, time
from advlog_fast import AdvancedLogger
folder, rank, attempt = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with AdvancedLogger(folder, "run", console="off", memory_interval_s=0, rank=rank, world_size=2, max_log_size=20_000,
                    max_log_files=20, part_rows=100, text_ranks="all", metrics=["perplexity"]) as log:
    if attempt == 2:
        log.load_state_dict(json.load(open(f"{folder}/state{rank}.json")))
    open(f"{folder}/here{attempt}-{rank}", "w").close()
    while not os.path.exists(f"{folder}/here{attempt}-{1 - rank}"):  # one attempt is of processes that live together
        time.sleep(0.01)
    log.start_training({"seed": 7, "model": "toy"})
    first = 150 if attempt == 2 else 1
    for step in range(first, first + 200):
        late = {"late": -0.0} if step > 120 else {}
        log.log_batch_progress(1, step, 400, 1.0 / step, accuracy=step / 1000, learning_rate=1e-3, batch_time=0.01,
                               step=step, perplexity=float("nan") if step == 60 else step * 2.5, **late)
        if step == 149:
            json.dump(log.state_dict(), open(f"{folder}/state{rank}.json", "w"))
        if step % 50 == 0:
            log.log_performance_metrics(0.01, 0.002)
            log.log_validation(1, {"accuracy": step / 1000}, is_best=True)
    try:
        raise ValueError("one of ours")
    except ValueError as error:
        log.log_error(error, operation="a test")
    log.log_event("mine", at=3)
    log.end_training({"final_loss": 1.0 / step})
"""

KILLED = """
import json, os, sys, time
from advlog_fast import AdvancedLogger
folder, rings = sys.argv[1], sys.argv[2]
log = AdvancedLogger(folder, "killed", console="off", memory_interval_s=0, ring_dir=rings, ring_bytes=1 << 16,
                     max_log_size=20_000, max_log_files=20, part_rows=300)
log.start_training({"seed": 1})
def step(number, **more):
    log.log_batch_progress(1, number, 700, 1.0 / number, accuracy=number / 1000, step=number, **more)
for number in range(1, 651):
    step(number, **({"late": number * 0.5} if number > 400 else {}))
assert log.flush() and log._session.parts.sealer is not None
time.sleep(0.3)
reading, writing = os.pipe()
if os.fork() == 0:
    for number in range(651, 661):
        step(number, child=1.0)
    os.write(writing, b".")
    time.sleep(60)
os.read(reading, 1)
log.log_error(ValueError("before the end"), operation="test")
for number in range(661, 701):
    step(number, late=number * 0.5)
os.kill(os.getpid(), 9)
"""

COMPACTED = """
import sys
from advlog_fast import AdvancedLogger
with AdvancedLogger(sys.argv[1], "compacted", console="off", memory_interval_s=0, max_log_size=1 << 20,
                    part_rows=50) as log:
    for step in range(1, 401):
        log.log_batch_progress(1, step, 400, 1.0 / step, **({"late": step * 0.5} if step > 200 else {}))
        if step % 40 == 0:
            assert log.flush()
"""


def python(code: str, *arguments: object, status: int = 0) -> None:
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=False)
    assert done.returncode == status, done.returncode


def pack(folder: Path, name: str) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for path in sorted(folder.rglob("*")):
            tar.add(path, str(path.relative_to(folder)), recursive=False)
    Path(__file__).with_name(f"{name}.tar.xz").write_bytes(lzma.compress(archive.getvalue(), preset=9))


def numbers_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Device and inode of each file, by which a ring finds its sinks' files."""
    return {
        str(path.relative_to(folder)): (path.stat().st_dev, path.stat().st_ino)
        for path in folder.rglob("*")
        if path.is_file()
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        logs = folder / "logs"
        logs.mkdir()
        for attempt in (1, 2):
            ranks = [
                subprocess.Popen([sys.executable, "-c", RANK, *map(str, (logs, rank, attempt))]) for rank in (0, 1)
            ]
            assert [rank.wait() for rank in ranks] == [0, 0]
        pack(folder, "run")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "rings").mkdir()
        python(KILLED, folder / "logs", folder / "rings", status=-9)
        (folder / "made.json").write_text(json.dumps({"folder": str(folder), "files": numbers_of(folder)}))
        pack(folder, "killed")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python(COMPACTED, folder / "logs")
        subprocess.run([sys.executable, "-m", "advlog_fast", "compact", str(folder / "logs")], check=True)
        pack(folder, "compacted")


if __name__ == "__main__":
    main()
