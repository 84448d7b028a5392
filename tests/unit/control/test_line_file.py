"""Entries are in the file whole or counted as lost, and no fault of the disk raises."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from advlog_fast.control import line_file
from advlog_fast.control.line_file import LineFile
from advlog_fast.store.rotated_files import rotated_files

TIME = "2026-01-01T12:00:00.000000Z"  # what every entry of ours begins with


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run_main.log"


@pytest.fixture
def opened(path):
    made = []

    def make(max_bytes=1 << 20, max_files=10):
        made.append(LineFile(path, max_bytes=max_bytes, max_files=max_files))
        return made[-1]

    yield make
    for file in made:
        file.close()


def whole(path):
    return [line for file in (*rotated_files(path), path) for line in file.read_text().splitlines()]


class TestWriting:
    def test_an_entry_is_in_the_file_when_the_call_returns(self, opened, path):
        file = opened()
        assert file.write("first\n")
        assert file.write(b"second without an end")
        assert path.read_bytes() == b"first\nsecond without an end\n"
        assert (file.written, file.lost, file.error) == (2, 0, None)

    def test_what_utf8_cannot_say_is_escaped(self, opened, path):
        opened().write("a\udc80")
        assert path.read_bytes() == b"a\\udc80\n"

    def test_the_file_is_not_inherited_by_a_program_started(self, opened, path):
        file = opened()
        assert not os.get_inheritable(file._fd)

    def test_entries_of_many_threads_are_all_there_and_whole(self, opened, path):
        file = opened(max_bytes=20_000, max_files=1000)
        threads = [
            threading.Thread(target=lambda t=t: [file.write(f"{t} {i} {'x' * 50}\n  | {t} {i}\n") for i in range(500)])
            for t in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        lines = whole(path)
        assert all(lines[i + 1] == "  | " + lines[i].rsplit(" ", 1)[0] for i in range(0, len(lines), 2))
        assert sorted(line.split()[:2] for line in lines[::2]) == sorted(
            [str(t), str(i)] for t in range(8) for i in range(500)
        )
        assert (file.written, file.lost) == (4000, 0)

    def test_after_close_entries_are_lost_and_counted(self, opened, path):
        file = opened()
        file.close()
        assert not file.write("late")
        assert (file.lost, path.read_bytes()) == (1, b"")


class TestStart:
    def test_what_an_earlier_start_left_is_rotated(self, opened, path):
        path.write_text("attempt 1\n")
        opened().write("attempt 2")
        assert path.read_text() == "attempt 2\n"
        assert path.with_name("run_main.log.1").read_text() == "attempt 1\n"

    def test_an_empty_file_is_used_as_it_is(self, opened, path):
        path.touch()
        opened()
        assert rotated_files(path) == []

    @pytest.mark.parametrize("kind", ["device", "directory", "pipe", "link"])
    def test_what_is_no_regular_file_is_refused_with_what_it_is(self, path, kind):
        target = Path("/dev/full") if kind == "device" else path
        if kind == "directory":
            path.mkdir()
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "link":
            path.symlink_to(path.with_name("elsewhere"))
        with pytest.raises(OSError, match=rf"expected a regular file or nothing, got a .*{kind}.*{target.name}"):
            LineFile(target, max_bytes=1024, max_files=2)
        assert not path.with_name("elsewhere").exists()

    def test_a_folder_that_is_not_there_is_refused(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            LineFile(tmp_path / "nowhere" / "x.log", max_bytes=1024, max_files=2)


class TestRotation:
    def test_no_file_exceeds_the_size_and_no_line_is_lost(self, opened, path):
        file = opened(max_bytes=100, max_files=1000)
        entries = [f"{i:03d} " + "x" * (i % 40) for i in range(200)]
        for entry in entries:
            assert file.write(entry)
        assert whole(path) == entries
        assert all(f.stat().st_size <= 100 for f in (*rotated_files(path), path))

    def test_an_entry_that_fits_exactly_stays_and_one_byte_more_rotates(self, opened, path):
        file = opened(max_bytes=100)
        file.write("x" * 49)
        file.write("y" * 49)
        assert (path.stat().st_size, rotated_files(path)) == (100, [])
        file.write("z")
        assert (path.read_text(), len(rotated_files(path))) == ("z\n", 1)

    def test_so_many_files_stand_as_allowed_and_they_are_the_latest(self, opened, path):
        file = opened(max_bytes=10, max_files=3)
        for i in range(10):
            file.write(f"{TIME} entry {i}")
        assert whole(path) == [f"{TIME} entry {i}" for i in (7, 8, 9)]

    def test_files_that_another_program_numbers_likewise_stay(self, opened, path):
        for number in range(1, 5):
            path.with_name(f"{path.name}.{number}").write_text(f"2026-01-01 12:00:00,000 another's {number}\n")
        file = opened(max_bytes=10, max_files=2)
        for i in range(4):
            file.write(f"{TIME} entry {i}")
        entries = [line for line in whole(path) if line.startswith(TIME)]
        assert entries[-1] == f"{TIME} entry 3"
        others = sorted(set(whole(path)) - set(entries))
        assert others == [f"2026-01-01 12:00:00,000 another's {n}" for n in range(1, 5)]

    def test_one_file_allowed_is_the_current_one(self, opened, path):
        file = opened(max_bytes=10, max_files=1)
        for i in range(5):
            file.write(f"{TIME} entry {i}")
        assert whole(path) == [f"{TIME} entry 4"]

    def test_an_entry_longer_than_a_file_has_one_to_itself(self, opened, path):
        file = opened(max_bytes=100)
        for entry in ("a", "x" * 500, "b"):
            assert file.write(entry)
        assert [f.read_text() for f in (*rotated_files(path), path)] == ["a\n", "x" * 500 + "\n", "b\n"]

    def test_where_renaming_fails_the_file_grows_rather_than_lose_a_line(self, tmp_path):
        path = tmp_path / ("x" * 254)
        file = LineFile(path, max_bytes=10, max_files=3)
        assert all(file.write(f"entry {i}") for i in range(3))
        file.close()
        assert path.read_text() == "entry 0\nentry 1\nentry 2\n"
        assert "too long" in file.error


class TestFaults:
    def test_a_file_that_vanished_is_made_again(self, opened, path):
        file = opened()
        file.write("before")
        path.unlink()
        assert file.write("after")
        assert path.read_text() == "after\n"

    def test_a_file_that_was_replaced_is_found_within_a_second(self, opened, path, monkeypatch):
        monkeypatch.setattr(line_file, "_LOOK_INTERVAL_S", 0.0)
        file = opened()
        file.write("before")
        path.rename(path.with_name("moved"))
        assert file.write("after")
        assert path.read_text() == "after\n"
        assert path.with_name("moved").read_text() == "before\n"

    def test_a_folder_removed_while_running_loses_entries_until_it_is_back(self, tmp_path):
        folder = tmp_path / "logs"
        folder.mkdir()
        path = folder / "run.log"
        file = LineFile(path, max_bytes=1024, max_files=2)
        assert file.write("one")
        path.unlink()
        folder.rmdir()
        assert not file.write("two")
        assert not file.write("three")
        assert (file.written, file.lost) == (1, 2)
        assert "FileNotFoundError" in file.error
        folder.mkdir()
        assert file.write("four")
        assert path.read_text() == "four\n"
        file.close()

    def test_a_link_put_in_its_place_is_not_followed(self, opened, path, monkeypatch):
        monkeypatch.setattr(line_file, "_LOOK_INTERVAL_S", 0.0)
        victim = path.with_name("victim")
        victim.write_text("the user's\n")
        file = opened()
        path.unlink()
        path.symlink_to(victim)
        assert not file.write("x")
        assert (victim.read_text(), file.lost) == ("the user's\n", 1)

    def test_a_full_disk_leaves_no_torn_entry_and_what_fits_is_still_written(self, tmp_path):
        """The limit on a file's size stands in for the disk: the write that reaches it is a short one."""
        script = tmp_path / "script.py"
        script.write_text(
            "import resource, sys\n"
            "from pathlib import Path\n"
            "from advlog_fast.control.line_file import LineFile\n"
            "file = LineFile(Path(sys.argv[1]), max_bytes=1 << 20, max_files=3)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))\n"
            "done = [file.write(('x' * size)) for size in (600, 600, 100, 600, 200)]\n"
            "print(done, file.written, file.lost, file.error)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
            "print(file.write('y' * 600))\n"
        )
        path = tmp_path / "run.log"
        ran = subprocess.run([sys.executable, "-W", "error", script, path], capture_output=True, text=True, timeout=180)
        assert ran.returncode == 0, ran.stderr
        first, second = ran.stdout.splitlines()
        assert first.startswith("[True, False, True, False, True] 3 2 OSError: ")
        assert second == "True"
        assert [len(line) for line in path.read_text().splitlines()] == [600, 100, 200, 600]


class TestInterruptions:
    def test_a_signal_handler_may_write_while_its_thread_writes(self, opened, path):
        """Ten thousand entries under a timer that fires all the time: none lost, none torn, none hangs."""
        file = opened(max_bytes=50_000, max_files=1000)
        fired = []

        def handler(*_):
            fired.append(file.write(f"signal {len(fired)}\n"))

        before = signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
        try:
            for i in range(10_000):
                assert file.write(f"main {i}\n")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        lines = whole(path)
        assert fired
        assert all(fired)
        assert [line for line in lines if line.startswith("main")] == [f"main {i}" for i in range(10_000)]
        assert len(lines) == 10_000 + len(fired) == file.written

    def test_an_entry_cut_off_by_an_exception_is_taken_back_before_the_next(self, opened, path):
        file = opened()
        file.write("whole")
        size = path.stat().st_size
        with path.open("ab") as torn:
            torn.write(b"to")
        # As a KeyboardInterrupt between two partial writes leaves it.
        file._unfinished = (size, 10)
        file.write("next")
        assert path.read_text() == "whole\nnext\n"

    def test_a_thread_that_hangs_in_a_write_costs_others_their_entry_and_a_deadline(self, opened, path, monkeypatch):
        monkeypatch.setattr(line_file, "LOCK_TIMEOUT_S", 0.05)
        file = opened()
        entered, leave = threading.Event(), threading.Event()

        def hang():
            with file._lock:
                entered.set()
                leave.wait(10)

        thread = threading.Thread(target=hang)
        thread.start()
        entered.wait(10)
        assert not file.write("lost")
        leave.set()
        thread.join()
        assert file.write("written")
        assert (file.lost, path.read_text()) == (1, "written\n")
