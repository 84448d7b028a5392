"""`advlog mirror`: real processes that write, are killed and compact, a real S3 protocol server, and hostile stores."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path

import pytest

fsspec = pytest.importorskip("fsspec")
pytest.importorskip("s3fs")
pytest.importorskip("moto.server")

from advlog_fast import AdvancedLogger, RunBusyError, RunNotFoundError, list_runs, read_run
from advlog_fast.cli import main
from advlog_fast.mirror import RemoteError, mirror
from advlog_fast.mirror.manifest import BLOCK_BYTES, PART_BLOCK_BYTES

KEYS = ("attempt", "rank", "worker", "seq")
WRITER = textwrap.dedent(
    """
    import random, sys, time
    from advlog_fast import AdvancedLogger

    folder, seconds, pause_s = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
    log = AdvancedLogger(folder, "run", console="off", part_rows=300, max_log_size=20_000, max_log_files=4,
                         memory_interval_s=0.2)
    end, batch = time.monotonic() + seconds, 0
    log.log_event("begun")
    print("begun", flush=True)
    while time.monotonic() < end:
        batch += 1
        log.log_batch_progress(1, batch, None, random.random(), step=batch, **{f"m{batch % 5}": random.random()})
        if batch % 100 == 0:
            log.log_validation(1, {"accuracy": random.random()}, step=batch)
        time.sleep(pause_s)
    log.close()
    """
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="session")  # s3fs keeps what it has connected to
def server() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        except OSError:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
    yield f"http://127.0.0.1:{port}"
    process.kill()
    process.wait()


@pytest.fixture(params=["file", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "file":
        return f"file://{tmp_path / 'store'}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", request.getfixturevalue("server"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    bucket = f"bucket-{os.urandom(4).hex()}"
    fsspec.filesystem("s3", skip_instance_cache=True).mkdir(bucket)
    return f"s3://{bucket}/team/runs"


STARTED: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def _no_process_stays():
    yield
    for process in STARTED:
        process.kill()
        process.communicate()
    STARTED.clear()


def started(command: list[str], **options: object) -> subprocess.Popen[str]:
    STARTED.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options))
    return STARTED[-1]


def start_mirror(folder: Path, url: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-m", "advlog_fast", "mirror", str(folder), url, *arguments]
    return started(command, stderr=subprocess.PIPE)


def start_writer(
    folder: Path, seconds: float, pause_s: float = 0.002, *, rank: int = 0, launch: int = 0, world: int = 2
):
    environ = {
        **os.environ,
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(20000 + launch),
    }
    command = [sys.executable, "-W", "error", "-c", WRITER, str(folder), str(seconds), "0.002"]
    process = started(command, env=environ)
    assert process.stdout.readline() == "begun\n"
    return process


def ended(process: subprocess.Popen[str], timeout_s: float = 60) -> int:
    try:
        process.communicate(timeout=timeout_s)
    finally:
        process.kill()
    return process.returncode


def same(url: str, folder: Path) -> None:
    """Both have the same rows, to the bit, in every table."""
    there, here = read_run(url, "run", attempts="all"), read_run(folder, "run", attempts="all")
    for table in ("metrics", "system", "events", "validation", "errors", "processes"):
        assert getattr(there, table).equals(getattr(here, table)), table
    assert there.summary == here.summary
    assert there.metrics.num_rows > 0


def keys_of(url: str) -> list[tuple[int, ...]]:
    table = read_run(url, "run", attempts="all")
    # `metrics` removes what is there twice; the batches do not.
    return [tuple(row.values()) for batch in table.scan(KEYS) for row in batch.to_pylist()]


class Poller(threading.Thread):
    """Reads all along, and notes what is there twice, and what goes away."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url = url
        self.stopped = False
        self.faults: list[str] = []
        self.polls = self.changes = 0
        self.seen: set[tuple[int, ...]] = set()

    def run(self) -> None:
        while not self.stopped:
            try:
                keys = keys_of(self.url)
            except RunNotFoundError as error:
                if self.seen:
                    self.faults.append(repr(error))
                keys = []
            except Exception as error:
                self.faults.append(repr(error))
                continue
            self.polls += 1
            twice = [key for key, count in Counter(keys).items() if count > 1]
            gone = self.seen - set(keys)
            if twice:
                self.faults.append(f"twice: {sorted(twice)[:3]} and {len(twice)} in all")
            if gone and keys:
                self.faults.append(f"gone: {sorted(gone)[:3]} and {len(gone)} in all")
            self.changes += not self.seen >= set(keys)
            self.seen |= set(keys)
            time.sleep(0.02)


class Killer(threading.Thread):
    """Keeps a mirror running, and kills it at random moments."""

    def __init__(self, folder: Path, url: str, kills: int, rng: random.Random) -> None:
        super().__init__(daemon=True)
        self.start_one = lambda: start_mirror(folder, url, "--follow", "--interval", "0.1")
        self.make_pass = lambda: start_mirror(folder, url)
        self.kills, self.rng = kills, rng
        self.statuses: list[int] = []

    def run(self) -> None:
        # On a busy machine the imports alone take seconds: half of the mirrors are to come further than that.
        began = time.monotonic()
        ended(self.make_pass())
        longest_s = max(2.0, 3 * (time.monotonic() - began))
        for _ in range(self.kills):
            process = self.start_one()
            time.sleep(self.rng.uniform(0.3, longest_s))
            process.kill()
            self.statuses.append(ended(process))


def kill_and_compare(folder: Path, url: str, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    poller, killer = Poller(url), Killer(folder, url, kills, rng)
    poller.start()
    launch = 0
    while not launch or killer.is_alive():
        launch += 1
        writers = [start_writer(folder, 2.0, rank=rank, launch=launch) for rank in (0, 1)]
        if launch == 1:
            killer.start()
        if launch % 3 == 0:  # the next start recovers it
            time.sleep(rng.uniform(0.2, 1.5))
            writers[1].kill()
        for writer in writers:
            ended(writer)
        if launch % 3 == 1:
            assert main(["compact", str(folder)]) == 0
    # The last one starts while a run is there that has not ended, and follows it to its recovery.
    writers = [start_writer(folder, 2.0, rank=rank, launch=launch + 1) for rank in (0, 1)]
    last = killer.start_one()
    time.sleep(rng.uniform(0.2, 1.5))
    writers[1].kill()
    for writer in writers:
        ended(writer)
    assert last.poll() is None
    assert main(["recover", str(folder)]) == 0
    assert ended(last) == 0
    poller.stopped = True
    poller.join(60)
    assert poller.faults == []
    assert killer.statuses.count(-signal.SIGKILL) >= kills / 2
    print(f"{kills} kills, {launch} launches, {poller.polls} polls, {poller.changes} of them with new rows")
    assert poller.changes > kills / 2
    same(url, folder)


def test_a_mirror_killed_at_any_moment_shows_each_row_once_and_in_the_end_has_all(tmp_path: Path, url: str):
    kill_and_compare(tmp_path / "logs", url, kills=8, seed=1)


@pytest.mark.stress
@pytest.mark.parametrize("seed", range(2))
def test_fifty_kills_of_a_mirror_lose_and_double_no_row(tmp_path: Path, url: str, seed: int):
    kill_and_compare(tmp_path / "logs", url, kills=50, seed=seed)


def test_two_hosts_mirror_one_run_and_readers_merge_it(tmp_path: Path, url: str):
    folders = [tmp_path / "host0", tmp_path / "host1"]
    writers = [start_writer(folder, 1.5, rank=rank) for rank, folder in enumerate(folders)]
    mirrors = [start_mirror(folder, url, "--follow", "--interval", "0.1") for folder in folders]
    poller = Poller(url)
    poller.start()
    for process in (*writers, *mirrors):
        assert ended(process) == 0
    poller.stopped = True
    poller.join(60)
    assert poller.faults == []
    there = read_run(url, "run", attempts="all")
    for rank, folder in enumerate(folders):
        here = read_run(folder, "run", attempts="all")
        for table in ("metrics", "events"):
            rows = getattr(there, table)
            mine = [row for row in rows.to_pylist() if row["rank"] == rank]
            assert mine == getattr(here, table).select(rows.column_names).to_pylist()
    assert list_runs(url).select(["name", "ranks", "status"]).to_pylist() == [
        {"name": "run", "ranks": 2, "status": "completed"}
    ]


def test_a_kill_of_the_run_and_of_its_mirror_costs_at_most_an_interval(tmp_path: Path, url: str):
    interval_s = 2.0
    writer = start_writer(tmp_path, 60, world=1)
    mirroring = start_mirror(tmp_path, url, "--follow", "--interval", str(interval_s))
    time.sleep(4 + random.random() * interval_s)
    writer.kill()
    mirroring.kill()
    at = datetime.now(timezone.utc)
    ended(writer)
    ended(mirroring)
    missing = at - read_run(url, "run").metrics["timestamp"][-1].as_py()
    print(f"the newest row is {missing.total_seconds():.2f} s older than the kill; the interval is {interval_s} s")
    assert missing.total_seconds() <= interval_s


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_mirror_makes_a_last_pass_at_sigterm_and_at_ctrl_c(tmp_path: Path, url: str, number: signal.Signals):
    with AdvancedLogger(tmp_path / "logs", "run", console="off", memory_interval_s=0) as log:
        log.log_batch_progress(1, 1, None, 0.5)
        assert log.flush()
        mirroring = start_mirror(tmp_path / "logs", url, "--follow", "--interval", "3600")
        wait_for_rows(url, 1)
        log.log_batch_progress(1, 2, None, 0.25)
        assert log.flush()
        mirroring.send_signal(number)
        out, error = mirroring.communicate(timeout=60)
        assert (mirroring.returncode, error) == (0, "")
        first, last = out.splitlines()
        assert re.fullmatch(rf"copied \S+ \w+ to {url}, and goes on; Ctrl-C ends it", first)
        assert re.fullmatch(rf"copied \S+ \w+ to {url}", last)
        assert read_run(url, "run").metrics["loss"].to_pylist() == [0.5, 0.25]


def wait_for_rows(url: str, count: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            if read_run(url, "run").metrics.num_rows >= count:
                return
        except RunNotFoundError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.1)


def one_run(folder: Path, name: str = "run", rows: int = 3) -> None:
    with AdvancedLogger(folder, name, console="off", memory_interval_s=0) as log:
        for batch in range(rows):
            log.log_batch_progress(1, batch, rows, batch / 7)


def test_a_url_lists_its_runs_and_names_those_that_there_are(tmp_path: Path, url: str, capsys):
    one_run(tmp_path / "logs", "a")
    one_run(tmp_path / "logs", "b", rows=5)
    assert main(["mirror", str(tmp_path / "logs"), url]) == 0
    assert re.fullmatch(rf"copied \S+ KiB to {url}\n", capsys.readouterr().out)
    assert main(["mirror", str(tmp_path / "logs"), url]) == 0
    assert capsys.readouterr().out == f"{url} has everything\n"
    mine, theirs = list_runs(tmp_path / "logs"), list_runs(url)
    assert theirs.equals(mine)
    assert theirs["records"].to_pylist() == [5, 3]
    with pytest.raises(RunNotFoundError, match=r"got 'c'; its runs are a, b"):
        read_run(url, "c")
    with pytest.raises(RunNotFoundError, match="which has none"):
        list_runs(url + "/nothing")


def test_the_commands_that_list_and_show_take_a_url(tmp_path: Path, url: str, capsys):
    logs = tmp_path / "logs"
    one_run(logs, "a")
    assert main(["mirror", str(logs), url]) == 0
    capsys.readouterr()
    for command in ("ls", "show"):
        assert main([command, str(logs)]) == 0
        here = capsys.readouterr().out
        assert main([command, url]) == 0
        assert capsys.readouterr().out.replace(url, str(logs)) == here
    assert main(["ls", url + "/nothing"]) == 2
    assert main(["show", url, "b"]) == 2


def test_a_rotated_file_is_uploaded_once_and_an_unchanged_object_downloaded_once(tmp_path: Path, monkeypatch):
    from advlog_fast.mirror.store import Store

    puts, gets = [], []
    put, get = Store.put, Store.get
    monkeypatch.setattr(Store, "put", lambda self, m, name, data: (puts.append(name), put(self, m, name, data))[1])
    monkeypatch.setattr(Store, "get", lambda self, m, name, limit: (gets.append(name), get(self, m, name, limit))[1])
    url = f"file://{tmp_path / 'store'}"
    with AdvancedLogger(tmp_path / "logs", "run", console="off", memory_interval_s=0, max_log_size=4096) as log:
        for batch in range(100):
            log.log_batch_progress(1, batch, None, batch / 7)
        assert log.flush()
        assert mirror(tmp_path / "logs", url)
        first = set(puts)
        read_run(url, "run")
        puts.clear()
        assert mirror(tmp_path / "logs", url)
        assert puts == []
        for batch in range(100):
            log.log_batch_progress(2, batch, None, batch / 7)
    assert mirror(tmp_path / "logs", url)
    assert not first & (set(puts) - {"manifest.json"})
    gets.clear()
    read_run(url, "run")
    assert not set(gets) & first - {"manifest.json"}
    gets.clear()
    assert read_run(url, "run").metrics.num_rows == 200
    assert set(gets) == {"manifest.json"}


def test_a_large_file_is_uploaded_from_its_last_blocks_on(tmp_path: Path):
    """Also one that has got the inode of another is not taken for it."""
    logs, store = tmp_path / "logs", tmp_path / "store"
    one_run(logs)
    log = logs / "run_main.log"
    content = log.read_bytes() + os.urandom(12 * BLOCK_BYTES)
    log.write_bytes(content)
    assert mirror(logs, f"file://{store}")
    with log.open("ab") as file:
        file.write(b"more")
    assert mirror(logs, f"file://{store}")
    run = read_run(f"file://{store}", "run")  # its folder goes with it
    assert (run.log_dir / log.name).read_bytes() == content + b"more"
    with log.open("r+b") as file:
        other = os.urandom(13 * BLOCK_BYTES)
        file.write(other)
    assert mirror(logs, f"file://{store}")
    run = read_run(f"file://{store}", "run")
    assert (run.log_dir / log.name).read_bytes() == other


def manifests(store: Path) -> list[Path]:
    return sorted(store.glob("advlog-mirror/*/manifest.json"))


def objects(store: Path) -> set[str]:
    return {path.name for path in store.glob("advlog-mirror/*/*")} - {"manifest.json"}


def test_objects_stay_for_two_manifests_and_are_then_removed(tmp_path: Path):
    logs, store = tmp_path / "logs", tmp_path / "store"
    with AdvancedLogger(logs, "run", console="off", memory_interval_s=0, parquet=False) as log:
        seen = []
        for batch in range(5):
            log.log_batch_progress(1, batch, None, batch / 7)
            assert log.flush()
            assert mirror(logs, f"file://{store}")
            listed = json.loads(manifests(store)[0].read_text())
            seen.append({name for files in listed["runs"].values() for file in files.values() for name, _ in file[4]})
            assert objects(store) == set().union(*seen[-3:])


def test_what_a_killed_upload_left_is_removed_and_a_cut_object_is_replaced(tmp_path: Path):
    logs, store = tmp_path / "logs", tmp_path / "store"
    one_run(logs)
    assert mirror(logs, f"file://{store}")
    folder = manifests(store)[0].parent
    sound = objects(store)
    leftovers = [folder / ("0" * 64), folder / f"{'1' * 64}.{'2' * 16}.tmp"]
    for leftover in leftovers:
        leftover.write_bytes(b"left")
    (folder / "of somebody else").write_bytes(b"stays")
    cut = folder / max(sound)
    cut.write_bytes(cut.read_bytes()[:-1])
    assert mirror(logs, f"file://{store}")
    assert objects(store) == sound | {"of somebody else"}
    same(f"file://{store}", logs)


def test_a_run_that_left_the_folder_stays_in_the_store(tmp_path: Path):
    logs, url = tmp_path / "logs", f"file://{tmp_path / 'store'}"
    one_run(logs, "a")
    assert mirror(logs, url)
    for path in sorted(logs.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    one_run(logs, "b")
    assert mirror(logs, url)
    assert sorted(list_runs(url)["name"].to_pylist()) == ["a", "b"]


def test_links_in_the_folder_are_not_followed_and_said(tmp_path: Path, capsys):
    secret = tmp_path / "secret"
    (secret / "attempt-1").mkdir(parents=True)
    (secret / "run_main.log").write_text("a secret")
    (secret / "attempt-1" / "rank00000-000009.parquet").write_text("a secret")
    logs, store = tmp_path / "logs", tmp_path / "store"
    one_run(logs)
    (logs / "run_main.log").unlink()
    (logs / "run_main.log").symlink_to(secret / "run_main.log")
    (logs / "run_system.parquet").symlink_to(secret)
    (logs / "run_metrics.parquet" / "attempt-2").symlink_to(secret / "attempt-1")
    os.mkfifo(logs / "run_errors.log.1")
    assert main(["mirror", str(logs), f"file://{store}"]) == 1
    told = capsys.readouterr().err
    for name in ("run_main.log", "run_system.parquet", "run_metrics.parquet/attempt-2", "run_errors.log.1"):
        assert f"advlog mirror: {name}: no regular file" in told
    assert all(b"secret" not in path.read_bytes() for path in store.rglob("*") if path.is_file())
    assert read_run(f"file://{store}", "run").metrics.num_rows == 3


SHA = "a" * 64
HOSTILE = {
    "above": {"runs": {"run": {"../run_main.log": [1, 0, 0, 0, [[SHA, 1]]]}}},
    "absolute": {"runs": {"run": {"/etc/run_main.log": [1, 0, 0, 0, [[SHA, 1]]]}}},
    "another place": {"runs": {"run": {".ssh/authorized_keys": [1, 0, 0, 0, [[SHA, 1]]]}}},
    "the middle": {"runs": {"run": {".advlog/../../run.json": [1, 0, 0, 0, [[SHA, 1]]]}}},
    "another run": {"runs": {"run": {"other_main.log": [1, 0, 0, 0, [[SHA, 1]]]}}},
    "an object elsewhere": {"runs": {"run": {"run_main.log": [1, 0, 0, 0, [["../../secret", 1]]]}}},
    "a huge block": {"runs": {"run": {"run_main.log": [1 << 40, 0, 0, 0, [[SHA, 1 << 40]]]}}},
    "a sum": {"runs": {"run": {"run_main.log": [7, 0, 0, 0, [[SHA, 1]]]}}},
    "a negative size": {"runs": {"run": {"run_main.log": [-1, 0, 0, 0, [[SHA, -1]]]}}},
    "no number": {"runs": {"run": {"run_main.log": [1.0, 0, 0, 0, [[SHA, 1.0]]]}}},
    "no runs": {"runs": None},
    "no file": {"runs": {"run": {"run_main.log": 7}}},
    "another version": {"version": 2, "runs": {}},
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_manifest_is_an_error_and_reads_nothing(tmp_path: Path, kind: str):
    folder = tmp_path / "store" / "advlog-mirror" / "evil"
    folder.mkdir(parents=True)
    (tmp_path / "store" / "secret").write_text("x")
    (folder / "manifest.json").write_text(json.dumps({"version": 1, "taken_ns": 1, "earlier": [], **HOSTILE[kind]}))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RemoteError, match="evil: expected the manifest of a mirror, got"):
        read_run(f"file://{tmp_path / 'store'}", "run")
    made = [path for path in sorted(tmp_path.rglob("*")) if path not in before and path.is_file()]
    assert made == []


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '"x"', "\0"])
def test_what_is_no_manifest_is_an_error(tmp_path: Path, text: str):
    folder = tmp_path / "store" / "advlog-mirror" / "evil"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(text)
    with pytest.raises(RemoteError, match="expected the manifest of a mirror, got"):
        list_runs(f"file://{tmp_path / 'store'}")


def test_an_object_with_another_content_is_an_error_and_is_not_kept(tmp_path: Path):
    logs, store = tmp_path / "logs", tmp_path / "store"
    one_run(logs)
    assert mirror(logs, f"file://{store}")
    broken = manifests(store)[0].parent / max(objects(store))
    content = broken.read_bytes()
    for other in (content[:-1] + bytes([content[-1] ^ 1]), content + b"x", content[:-1]):
        broken.write_bytes(other)
        with pytest.raises(RemoteError, match="has not the content that the manifest says"):
            read_run(f"file://{store}", "run")
    broken.write_bytes(content)
    same(f"file://{store}", logs)


def test_more_than_the_disk_takes_is_not_begun(tmp_path: Path):
    folder = tmp_path / "store" / "advlog-mirror" / "evil"
    folder.mkdir(parents=True)
    (folder / SHA).write_bytes(b"never read")
    content = [1000 * PART_BLOCK_BYTES, 0, 0, 0, [[SHA, PART_BLOCK_BYTES]] * 1000]
    files = {f"run_metrics.parquet/attempt-1/rank00000-{part:06}.parquet": content for part in range(100)}
    manifest = {"version": 1, "taken_ns": 1, "earlier": [], "runs": {"run": files}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RemoteError, match=r"files of \d+ bytes .* free"):
        read_run(f"file://{tmp_path / 'store'}", "run")


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKIA:hunter2@bucket/x",
        "s3://hunter2@bucket/x",
        "gs://bucket/x?token=hunter2",
        "gs://bucket/x#hunter2",
        "abfs://box:hunter2@account.dfs.core.windows.net/x",
        "simplecache::s3://AKIA:hunter2@bucket/x",
        "file:///x::s3://hunter2@bucket",
        "https://user:hunter2@host/x",
        "s3:/AKIA:hunter2@bucket/x",
        "s3://bucket/../hunter2",
        "file://hunter2/x",
    ],
)
def test_a_url_with_credentials_or_chained_protocols_is_refused_and_shown_nowhere(tmp_path: Path, url: str, capsys):
    one_run(tmp_path)
    for call in (lambda: read_run(url, "run"), lambda: list_runs(url), lambda: mirror(tmp_path, url)):
        with pytest.raises(ValueError, match=r"^url: expected") as error:
            call()
        assert "hunter2" not in str(error.value)
    assert main(["mirror", str(tmp_path), url]) == 1
    told = capsys.readouterr().err
    assert told.startswith("advlog mirror: url: expected")
    assert "hunter2" not in told


def test_without_its_package_a_scheme_is_an_error_that_names_what_to_install(run_python):
    for module, url, command in (
        ("fsspec", "file:///tmp/x", "pip install 'advlog-fast[remote]'"),
        ("s3fs", "s3://bucket/x", "pip install 'advlog-fast[remote]'"),
        ("gcsfs", "gs://bucket/x", "pip install gcsfs"),
        ("adlfs", "az://bucket/x", "pip install adlfs"),
    ):
        code = f"import sys; sys.modules[{module!r}] = None\nfrom advlog_fast import list_runs\nlist_runs({url!r})"
        error = run_python("-c", code).stderr
        assert error.rstrip().endswith(command), error


def test_importing_the_package_and_reading_a_folder_imports_no_fsspec(run_python, tmp_path: Path):
    one_run(tmp_path / "logs")
    code = (
        "import sys, advlog_fast\nassert 'fsspec' not in sys.modules and 'advlog_fast.mirror' not in sys.modules\n"
        "advlog_fast.read_run('logs', 'run').metrics\nassert 'fsspec' not in sys.modules"
    )
    assert run_python("-c", code).returncode == 0


def test_two_mirrors_of_a_folder_to_one_url_are_refused(tmp_path: Path):
    url = f"file://{tmp_path / 'store'}"
    with AdvancedLogger(tmp_path / "logs", "run", console="off", memory_interval_s=0) as log:
        log.log_batch_progress(1, 1, None, 0.5)
        assert log.flush()
        mirroring = start_mirror(tmp_path / "logs", url, "--follow", "--interval", "0.1")
        wait_for_rows(url, 1)
        with pytest.raises(RunBusyError, match="is being mirrored"):
            mirror(tmp_path / "logs", url)
    assert ended(mirroring) == 0


def test_a_store_that_is_away_is_said_once_and_awaited(tmp_path: Path):
    store = tmp_path / "store"
    store.write_text("no folder yet")
    one_run(tmp_path / "logs")
    mirroring = start_mirror(tmp_path / "logs", f"file://{store}", "--follow", "--interval", "0.1")
    time.sleep(2.5)
    store.unlink()
    out, error = mirroring.communicate(timeout=60)
    assert mirroring.returncode == 0
    assert [line.split(" to ")[0].split()[0] for line in out.splitlines()] == ["copied", "copied"]
    assert error.count("\n") == 1
    assert "it is tried again" in error
    same(f"file://{store}", tmp_path / "logs")


def test_a_store_that_stays_away_is_status_1_and_no_run_status_2(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr("advlog_fast.mirror.mirroring._LONGEST_PAUSE_S", 0.0)
    (tmp_path / "store").write_text("no folder")
    one_run(tmp_path / "logs")
    assert main(["mirror", str(tmp_path / "logs"), f"file://{tmp_path / 'store'}"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["mirror", str(tmp_path / "nowhere"), f"file://{tmp_path / 'store'}"]) == 2
    assert main(["mirror", str(tmp_path / "logs"), f"file://{tmp_path / 'store'}", "--name", "other"]) == 2


def test_some_runs_are_mirrored_by_name_and_a_damaged_one_holds_back_no_other(tmp_path: Path, capsys):
    logs, url = tmp_path / "logs", f"file://{tmp_path / 'store'}"
    for name in ("a", "b", "c"):
        one_run(logs, name)
    assert main(["mirror", str(logs), url, "--name", "a", "b"]) == 0
    assert sorted(list_runs(url)["name"].to_pylist()) == ["a", "b"]
    assert main(["mirror", str(logs), url, "--name", "c"]) == 0
    assert sorted(list_runs(url)["name"].to_pylist()) == ["a", "b", "c"]


def test_attempts_with_and_without_parquet_are_read_and_listed_as_they_are_here(tmp_path: Path):
    logs, url = tmp_path / "logs", f"file://{tmp_path / 'store'}"
    state = None
    for options in ({"parquet": False, "max_log_size": 4096}, {}, {"jsonl": False}):
        with AdvancedLogger(logs, "run", console="off", memory_interval_s=0.05, **options) as log:
            if state is not None:
                log.load_state_dict(state)
            for batch in range(60):
                log.log_batch_progress(1, batch, None, batch / 7)
            log.log_memory_usage()
            state = log.state_dict()
        assert mirror(logs, url)
        same(url, logs)
        for attempts in ("chain", "latest"):
            assert read_run(url, "run", attempts=attempts).metrics.equals(
                read_run(logs, "run", attempts=attempts).metrics
            )
        assert list_runs(url).equals(list_runs(logs))


def test_a_killed_run_goes_on_elsewhere_from_its_copy(tmp_path: Path, url: str):
    first, second = tmp_path / "first", tmp_path / "second"
    writer = start_writer(first, 60, world=1)
    time.sleep(1)
    writer.kill()
    ended(writer)
    assert main(["mirror", str(first), url]) == 0
    copied = read_run(url, "run")
    before = set(keys_of(url))
    shutil.copytree(copied.log_dir, second)
    shutil.rmtree(first)
    one_run(second)
    assert main(["mirror", str(second), url]) == 0
    same(url, second)
    assert read_run(url, "run").run_id == copied.run_id
    assert read_run(url, "run").attempts == [1, 2]
    assert set(keys_of(url)) == before | {(2, 0, 0, seq) for seq in (1, 2, 3)}


def test_a_fetched_folder_goes_with_its_run(tmp_path: Path):
    one_run(tmp_path / "logs")
    url = f"file://{tmp_path / 'store'}"
    assert mirror(tmp_path / "logs", url)
    run = read_run(url, "run")
    folder = run.log_dir
    batches = run.scan(["loss"])
    assert folder.is_dir()
    del run
    assert sum(batch.num_rows for batch in batches) == 3
    del batches
    assert not folder.exists()
