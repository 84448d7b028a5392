"""errors.log: whole the first times, counted in a storm, forged by nothing."""

import sys
import threading

import numpy as np
import pytest
from run_files import error_entries, physical_lines, strict_json, unescape

from advlog_fast import AdvancedLogger, read_jsonl, read_run
from advlog_fast.control.error_text import MAX_BYTES, MAX_LINES, category_of, traceback_lines
from advlog_fast.control.errors import MAX_DISTINCT, ErrorRecorder
from advlog_fast.control.line_file import LineFile

FORGED = "a\r\nERROR forged\x1b[2J\x00"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run_errors.log"


@pytest.fixture
def recorder(path):
    file = LineFile(path, max_bytes=1 << 30, max_files=3)
    yield ErrorRecorder(file, 1)
    file.close()


def raised(error):
    """The error as it is once it was raised here."""
    try:
        raise error
    except type(error) as caught:
        return caught


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


class MuteError(Exception):
    def __str__(self):
        raise RuntimeError("no")


class TestRecord:
    def test_the_header_has_the_shape_of_the_design(self, recorder, path):
        error = OutOfMemoryError("CUDA out of memory")
        recorder.record(error, "model_training", {"epoch": 2, "batch": 17, "state": "training"})
        ((header, below),) = error_entries(path)
        assert header.level == "ERROR"
        assert header.text == (
            "id=e1 attempt=1 category=out_of_memory operation=model_training epoch=2 batch=17 "
            'type=OutOfMemoryError message="CUDA out of memory"'
        )
        assert below == [
            'context {"epoch":2,"batch":17,"state":"training"}',
            "OutOfMemoryError: CUDA out of memory".replace("Out", f"{__name__}.Out", 1),
        ]

    def test_the_traceback_stands_below_with_its_causes(self, recorder, path):
        try:
            try:
                {}["weights"]
            except KeyError as cause:
                raise RuntimeError("no checkpoint") from cause
        except RuntimeError as error:
            recorder.record(error)
        ((_, below),) = error_entries(path)
        assert below[0] == "Traceback (most recent call last):"
        assert "KeyError: 'weights'" in below
        assert "The above exception was the direct cause of the following exception:" in below
        assert any(line.startswith("  File ") and "test_the_traceback_stands" in line for line in below)
        assert below[-1] == "RuntimeError: no checkpoint"

    def test_the_result_is_the_guides_error_log(self, recorder):
        context = {"device": object()}
        log = recorder.record(raised(ValueError("x")), "op", context, "WARNING").log
        assert (log.error_type, log.error_message, log.operation) == ("ValueError", "x", "op")
        assert (log.context, log.severity) == (context, "WARNING")
        assert log.timestamp.utcoffset().total_seconds() == 0
        assert log.traceback.endswith("ValueError: x")

    def test_a_text_is_an_error_without_a_traceback(self, recorder, path):
        recorder.record("disk is slow", "checkpoint", severity="WARNING")
        ((header, below),) = error_entries(path)
        assert header.level == "WARNING"
        assert header.text.endswith('operation=checkpoint type=Message message="disk is slow"')
        assert below == []

    def test_nothing_can_be_forged_by_message_operation_context_or_type(self, recorder, path):
        kind = type(f"Bad\n{FORGED[:-1]}", (Exception,), {})
        error = raised(kind(FORGED + '" id=e9'))
        recorder.record(error, f"op\n{FORGED}", {FORGED: FORGED, "epoch": FORGED})
        ((header, below),) = error_entries(path)
        assert unescape(header.fields["message"][1:-1]) == FORGED + '" id=e9'
        assert header.fields["id"] == "e1"
        assert sum("forged" in line and not line.startswith("context ") for line in below) == 1
        for line in physical_lines(path)[1:]:
            assert line.startswith("  | ")
        assert strict_json(below[0].removeprefix("context ")) == {FORGED: FORGED, "epoch": FORGED}

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with Python 3.11")
    def test_a_group_shows_the_errors_in_it(self, recorder, path):
        group = ExceptionGroup("two workers", [raised(ValueError(FORGED)), raised(OSError("disk"))])  # noqa: F821
        recorder.record(raised(group))
        ((header, below),) = error_entries(path)
        assert header.fields["category"] == "io"
        assert any("OSError: disk" in line for line in below)
        assert sum("forged" in line for line in below) == 1

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="notes came with Python 3.11")
    def test_notes_are_kept(self, recorder, path):
        error = ValueError("x")
        error.add_note("first\nsecond")
        recorder.record(error)
        ((_, below),) = error_entries(path)
        assert below[-2:] == ["first", "second"]

    def test_an_error_whose_text_raises_is_recorded_all_the_same(self, recorder, path):
        log = recorder.record(raised(MuteError())).log
        assert log.error_message == "<str() raised RuntimeError>"
        ((header, _),) = error_entries(path)
        assert header.fields["type"] == "MuteError"

    def test_a_very_deep_traceback_is_cut_in_its_middle(self, recorder, path):
        source = "".join(f"def f{i}(n):\n    f{(i + 1) % 10}(n - 1) if n else 1 / 0\n" for i in range(10))
        names: dict = {}
        exec(source, names)  # noqa: S102
        with pytest.raises(ZeroDivisionError) as caught:
            names["f0"](400)
        recorder.record(caught.value)
        ((_, below),) = error_entries(path)
        assert len(below) == MAX_LINES
        assert any("lines left out" in line for line in below)
        assert below[0] == "Traceback (most recent call last):"
        assert below[-1] == "ZeroDivisionError: division by zero"

    def test_a_huge_message_is_cut(self, recorder, path):
        recorder.record(raised(ValueError("\x00" * 10_000_000)))
        assert path.stat().st_size < 2 * MAX_BYTES
        lines = traceback_lines(ValueError("\n".join("x" * 1000 for _ in range(10_000))))
        assert len("\n".join(lines)) <= MAX_BYTES

    def test_secrets_in_a_context_are_masked(self, recorder, path):
        first = recorder.record("x", context={"api_key": "s3cret", "url": "https://me:s3cret@host"})
        again = recorder.add_context(first, "op", {"password": "s3cret"}, "ERROR")
        assert first.context == {"api_key": "***", "url": "https://***@host"}
        assert again.context == {"password": "***"}
        assert "s3cret" not in path.read_text()
        assert "s3cret" not in str(recorder.summary())


class TestStorm:
    def fail(self, number):
        raise ValueError(f"bad sample {number} at 0x{number:x}")

    def storm(self, recorder, count, operation="read"):
        for number in range(count):
            try:
                self.fail(number)
            except ValueError as error:
                recorder.record(error, operation)

    def test_equal_errors_are_written_five_times_and_then_at_powers_of_two(self, recorder, path):
        self.storm(recorder, 1000)
        entries = error_entries(path)
        assert [header.fields["id"] for header, _ in entries[:5]] == ["e1", "e2", "e3", "e4", "e5"]
        assert all(below for _, below in entries[:5])
        assert [header.fields["repeated"] for header, _ in entries[5:]] == [
            "8",
            "16",
            "32",
            "64",
            "128",
            "256",
            "512",
        ]
        assert {header.fields["id"] for header, _ in entries[5:]} == {"e1"}
        recorder.close()
        assert error_entries(path)[-1][0].fields["repeated"] == "1000"
        summary = recorder.summary()
        assert (summary["total"], summary["repeated"]) == (1000, 995)

    def test_closing_tells_no_count_that_was_told(self, recorder, path):
        self.storm(recorder, 8)
        before = path.read_bytes()
        recorder.close()
        assert path.read_bytes() == before

    def test_errors_of_another_place_operation_or_severity_are_not_equal(self, recorder, path):
        self.storm(recorder, 6)
        self.storm(recorder, 1, "write")
        recorder.record(ValueError("bad sample 1 at 0x1"), "read")
        recorder.record(ValueError("bad sample 1 at 0x1"), "read", severity="CRITICAL")
        assert sum(bool(below) for _, below in error_entries(path)) == 5 + 3

    def test_the_same_object_recorded_again_counts_again(self, recorder):
        error = ValueError("x")
        for _ in range(100):
            recorder.record(error)
        assert recorder.total == 100

    def test_remembered_errors_are_bounded_and_a_forgotten_count_is_told(self, recorder, path):
        self.storm(recorder, 7)
        for i in range(MAX_DISTINCT + 50):
            recorder.record("x", f"operation {'a' * (i % 40)}{chr(97 + i % 26)}{chr(97 + i // 26 % 26)}{i}")
        assert len(recorder._storms) == MAX_DISTINCT
        assert any(header.fields.get("repeated") == "7" for header, _ in error_entries(path))

    def test_errors_of_eight_threads_are_all_counted_and_none_is_torn(self, recorder, path):
        def work(thread):
            for number in range(250):
                recorder.record(raised(KeyError(f"key {number}")), f"thread {thread}", {"batch": number})

        threads = [threading.Thread(target=work, args=(t,)) for t in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        recorder.close()
        entries = error_entries(path)
        assert recorder.total == 2000
        whole = [header.fields["id"] for header, below in entries if below]
        assert sorted(whole, key=lambda i: int(i[1:])) == [f"e{i}" for i in range(1, 41)]
        assert all(below[-1].startswith("KeyError: ") for _, below in entries if below)
        last = {header.fields["operation"]: header.fields["repeated"] for header, below in entries if not below}
        assert last == {f'"thread {t}"': "250" for t in range(8)}


class TestCounts:
    def test_errors_are_counted_by_severity_and_category(self, recorder):
        recorder.record(MemoryError(), severity="CRITICAL")
        recorder.record(OSError("disk"), "save", {"epoch": 3})
        recorder.record(OSError("disk"), "save", {"epoch": 4})
        summary = recorder.summary()
        assert summary["by_category"] == {"out_of_memory": 1, "io": 2}
        assert summary["by_severity"] == {"CRITICAL": 1, "ERROR": 2}
        assert (summary["last"]["operation"], summary["last"]["context"]) == ("save", {"epoch": 4})

    def test_context_added_later_counts_no_second_time(self, recorder, path):
        first = recorder.record(raised(OSError("disk")), "inner", {"a": 1})
        again = recorder.add_context(first, "outer", {"epoch": 2, "batch": 17}, "CRITICAL")
        assert again.log.context == {"a": 1, "epoch": 2, "batch": 17}
        assert again.log.traceback == first.log.traceback
        assert recorder.summary()["by_severity"] == {"CRITICAL": 1}
        assert recorder.total == 1
        (_, _), (header, below) = error_entries(path)
        assert header.text == (
            'id=e1 attempt=1 category=io operation=outer epoch=2 batch=17 type=OSError message="disk"'
        )
        assert strict_json(below[0].removeprefix("context ")) == {"epoch": 2, "batch": 17}
        assert recorder.recovery("outer", "retry") == "io"

    def test_recoveries_are_counted_for_the_category_of_the_operations_last_error(self, recorder, path):
        recorder.record(OutOfMemoryError("x"), "train")
        recorder.recovery("train", "halved the\nbatch", success=False)
        recorder.recovery("train", "halved the batch")
        recorder.recovery("unheard of", "retry")
        assert recorder.recoveries() == {
            "out_of_memory": {"attempts": 2, "successes": 1, "rate": 0.5},
            "other": {"attempts": 1, "successes": 1, "rate": 1.0},
        }
        headers = [header for header, _ in error_entries(path)][1:]
        assert [header.level for header in headers] == ["WARNING", "INFO", "INFO"]
        assert headers[0].text == (
            'recovery attempt=1 operation=train action="halved the\\nbatch" success=false category=out_of_memory'
        )


class DistBackendError(RuntimeError):
    pass


class UnidentifiedImageError(OSError):
    pass


CATEGORY = [
    (MemoryError(), "out_of_memory"),
    (OutOfMemoryError("Tried to allocate 2 GiB"), "out_of_memory"),
    (RuntimeError("CUDA error: out of memory"), "out_of_memory"),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "out_of_memory"),
    (OSError(12, "Cannot allocate memory"), "out_of_memory"),
    (FloatingPointError("overflow"), "non_finite"),
    (RuntimeError("Function 'MulBackward0' returned nan values in its 0th output."), "non_finite"),
    (ValueError("Input X contains NaN."), "non_finite"),
    (ValueError("cannot convert float infinity to integer"), "non_finite"),
    (FileNotFoundError(2, "No such file or directory", "nan.txt"), "io"),
    (OSError(28, "No space left on device"), "io"),
    (BrokenPipeError(), "io"),
    (TimeoutError("read timed out"), "io"),
    (UnidentifiedImageError("cannot identify image file"), "data"),
    (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "data"),
    (KeyError("label"), "data"),
    (IndexError("index out of range in self"), "data"),
    (EOFError("Ran out of input"), "data"),
    (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), "data"),
    (DistBackendError("unhandled system error"), "distributed"),
    (RuntimeError("NCCL communicator was aborted on rank 3."), "distributed"),
    (ConnectionError("rendezvous failed"), "distributed"),
    (RuntimeError("mat1 and mat2 shapes cannot be multiplied (4x3 and 5x2)"), "type_shape"),
    (RuntimeError("expected scalar type Half but found Float"), "type_shape"),
    (RuntimeError("Expected all tensors to be on the same device, but found two"), "type_shape"),
    (IndexError("Dimension out of range (expected to be in range of [-1, 0])"), "type_shape"),
    (TypeError("unsupported operand"), "type_shape"),
    (ValueError("unknown option"), "other"),
    (RuntimeError("information about the influence of finance"), "other"),
    ("CUDA out of memory", "out_of_memory"),
    ("something odd", "other"),
]


@pytest.mark.parametrize(("error", "category"), CATEGORY, ids=[f"{e!r:.50}" for e, _ in CATEGORY])
def test_the_category_follows_type_and_message(error, category):
    assert category_of(error) == category


def test_an_error_that_says_nothing_has_its_causes_category():
    error = RuntimeError("step failed")
    error.__cause__ = MemoryError()
    assert category_of(error) == "out_of_memory"


def test_a_chain_that_bites_its_tail_ends():
    first, second = RuntimeError("a"), RuntimeError("b")
    first.__cause__, second.__cause__ = second, first
    assert category_of(first) == "other"


@pytest.mark.torch
def test_torchs_own_errors_are_told_apart():
    import torch

    with pytest.raises(RuntimeError) as shapes:
        torch.zeros(2, 3) @ torch.zeros(2, 3)
    with pytest.raises(RuntimeError) as memory:
        torch.empty(1 << 60)
    assert category_of(shapes.value) == "type_shape"
    assert category_of(memory.value) == "out_of_memory"
    assert category_of(torch.cuda.OutOfMemoryError("x")) == "out_of_memory"


def test_numpys_own_errors_are_told_apart():
    with pytest.raises(ValueError, match="broadcast") as shapes:
        np.zeros(2) + np.zeros(3)
    assert category_of(shapes.value) == "type_shape"
    with np.errstate(all="raise"), pytest.raises(FloatingPointError) as divided:
        np.ones(1) / np.zeros(1)
    assert category_of(divided.value) == "non_finite"


def test_a_recursion_without_an_end_is_recorded_and_the_run_can_be_read(tmp_path):
    with AdvancedLogger(tmp_path, "run", console="off", parquet=False) as log:

        def encode(depth):
            try:
                return encode(depth + 1)
            except RecursionError as error:
                log.log_error(error, "encode")
                log.log_event("fell", depth=depth, config={"deep": [1, {"a": 2}]})
                log.log_validation(1, {"a": 0.5})
                raise

        log.log_batch_progress(1, 1, 1, 0.5)
        with pytest.raises(RecursionError):
            encode(0)
    run = read_run(tmp_path, "run")
    assert run.metrics.num_rows == 1
    (error, *_) = run.errors.to_pylist()
    assert (error["type"], error["operation"]) == ("RecursionError", "encode")
    assert "unreadable" not in (tmp_path / "run_events.jsonl").read_text()
    assert "in encode" in (tmp_path / "run_errors.log").read_text()
    fell = [row for row in read_jsonl(tmp_path / "run_events.jsonl") if row["event"] == "fell"]
    assert fell
    assert all(row["config"] == {"deep": [1, {"a": 2}]} for row in fell)
