"""Values on an accelerator: logged by a call that waits for nothing, in the files when they have come."""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import math
import mmap
import os
import random
import threading
import time
import weakref
from types import SimpleNamespace

import pytest
from run_files import json_lines

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from late_device import LateDevice, OnDevice, bits_of, on_device, queue_on  # noqa: E402

import advlog_fast  # noqa: E402
from advlog_fast._native import lib  # noqa: E402
from advlog_fast.cli import main  # noqa: E402
from advlog_fast.engine import deferred  # noqa: E402
from advlog_fast.recovery import recover  # noqa: E402
from advlog_fast.verification import verify  # noqa: E402

REASONS = ("timeout", "slab_full", "capture", "killed")
DTYPES = ("float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> LateDevice:
    made = LateDevice()
    monkeypatch.setattr(deferred.Deferral, "queue_type", queue_on(made))
    return made


@pytest.fixture
def start(tmp_path):
    made = []

    def begin(**options):
        given = {"console": "off", "memory_interval_s": 0, **options}
        made.append(advlog_fast.AdvancedLogger(tmp_path, "run", **given))
        return made[-1]

    yield begin
    for log in made:
        log.close(1.0)


def log_step(log, step, **values):
    log.log_batch_progress(1, step, 1 << 30, values.pop("loss", 0.5), **values)


def wait_for(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def rows_of(log):
    return advlog_fast.read_run(log.config.log_dir, "run").metrics.to_pylist()


def unresolved(log, **counts):
    return log.health().unresolved == {**dict.fromkeys(REASONS, 0), **counts}


def test_a_value_stands_where_it_was_logged_once_it_has_come(device, start):
    log = start()
    log_step(log, 1, loss=on_device(0.25), mine=on_device([7]), plain=1.5)
    log_step(log, 2, loss=2.0)
    assert not log.flush(0.05)
    assert json_lines(log.paths["metrics_jsonl"]) == []
    device.land()
    assert log.close()
    first, second = json_lines(log.paths["metrics_jsonl"])
    assert (first["loss"], first["mine"], first["plain"], second["loss"]) == (0.25, 7.0, 1.5, 2.0)
    assert [row["unresolved"] for row in rows_of(log)] == [None, None]
    assert log.get_training_summary()["loss_stats"]["mean"] == 1.125
    assert unresolved(log)
    assert "loss=0.25 mine=7 plain=1.5" in log.paths["training_log"].read_text()


def run_values(device, log, count, seed):
    """Logs that many values, which land from a thread of their own in bursts, shuffled and torn; what they were."""
    random = torch.Generator().manual_seed(seed)
    values = torch.randn(count, dtype=torch.float64, generator=random)
    values[:: count // 4] = torch.tensor([math.nan, math.inf, -0.0, 5e-324], dtype=torch.float64)[
        : len(values[:: count // 4])
    ]
    done = threading.Event()

    def device_thread():
        while not done.is_set() or device.calls:
            device.enqueued.wait(0.01)
            device.enqueued.clear()
            for _ in device.land_torn(seed):
                pass

    thread = threading.Thread(target=device_thread)
    thread.start()
    for step in range(1, count + 1):
        loss = values[step - 1].clone()
        wait_for(lambda: len(device.calls) < 1000)
        log_step(log, step, loss=on_device(loss), twice=on_device(2 * loss))
        loss.fill_(-1.0)  # as an optimizer, or the allocator's next user, would
    done.set()
    thread.join()
    assert log.close()
    return values.tolist()


@pytest.mark.parametrize("count", [2_000, pytest.param(500_000, marks=pytest.mark.stress)])
def test_every_value_is_the_tensors_to_the_bit_and_in_order(device, start, count):
    log = start(text=False, jsonl=False)
    values = run_values(device, log, count, seed=count)
    table = advlog_fast.read_run(log.config.log_dir, "run").metrics
    assert table["step"].to_pylist() == list(range(1, count + 1))
    assert list(map(bits_of, table["loss"].to_pylist())) == list(map(bits_of, values))
    assert list(map(bits_of, table["twice"].to_pylist())) == [bits_of(2 * value) for value in values]
    assert table["unresolved"].null_count == count
    assert unresolved(log)


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_dtype_is_what_item_says(device, start, dtype):
    kind = getattr(torch, dtype)
    log = start()
    given = torch.tensor([1, 0, 1] if dtype == "bool" else [3, 1, 100]).to(kind)
    if kind.is_floating_point:
        given = torch.tensor([1 / 3, -0.0, torch.finfo(kind).max], dtype=torch.float64).to(kind)
    for step, value in enumerate(given, 1):
        log_step(log, step, loss=on_device(value.clone()), group=on_device(value.clone()), other=on_device(0.1))
    device.land()
    assert log.close()
    expected = [bits_of(float(value.item())) for value in given]
    for name in ("loss", "group"):
        assert [bits_of(row[name]) for row in rows_of(log)] == expected
    assert {row["other"] for row in rows_of(log)} == {torch.tensor(0.1).item()}


def test_what_lands_late_fills_no_other_record(device, start):
    """The entries of values that were given up are not used again before their own copies came."""
    log = start(deferred_timeout_s=0.05)
    for step in range(1, 11):
        log_step(log, step, loss=on_device(float(step)))
    wait_for(lambda: log.health().unresolved["timeout"] == 10)
    for step in range(11, 21):
        log_step(log, step, loss=on_device(float(step)))
    device.land(10, at=10)
    wait_for(lambda: log.flush(0.1))
    device.land()  # ten copies that nobody waits for any more
    wait_for(lambda: lib.advlog_slab_used(log._session.accounting.drain.ring.handle) == 0)
    log_step(log, 21, loss=on_device(21.0))
    device.land()
    assert log.close()
    rows = rows_of(log)
    assert [row["loss"] for row in rows] == [None] * 10 + [float(step) for step in range(11, 22)]
    assert [row["unresolved"] for row in rows] == [[("loss", "timeout")]] * 10 + [None] * 11
    assert json_lines(log.paths["metrics_jsonl"])[0]["unresolved"] == {"loss": "timeout"}
    assert unresolved(log, timeout=10)


def test_the_deadline_counts_from_the_call(device, start):
    """Values that wait together are given up together, not one timeout after another."""
    log = start(deferred_timeout_s=0.3)
    began = time.monotonic()
    for step in range(1, 201):
        log_step(log, step, loss=on_device(0.5))
    assert log.flush(20)
    assert time.monotonic() - began < 15  # 200 timeouts would be 60 s
    assert unresolved(log, timeout=200)


def test_a_device_that_never_answers_lets_close_return(device, start):
    log = start()
    for step in range(1, 101):
        log_step(log, step, loss=on_device(0.5), plain=float(step))
    began = time.monotonic()
    assert log.close(8.0)  # a second of it is for the files
    assert time.monotonic() - began < 30
    assert [row["plain"] for row in rows_of(log)] == [float(step) for step in range(1, 101)]
    assert unresolved(log, timeout=100)
    device.land()  # into memory that is still there


def test_the_last_value_comes_if_its_copy_lands_within_the_timeout(device, start):
    log = start()
    log_step(log, 1, loss=on_device(0.75))
    threading.Timer(0.2, device.land).start()
    assert log.close(20.0)
    assert rows_of(log)[0]["loss"] == 0.75


def test_what_a_device_knows_stays_and_the_slots_memory_goes(device, start):
    log = start(ring_bytes=1 << 20)
    ring = log._session.accounting.drain.ring
    first = lib.advlog_ring_slots_offset(ring.handle)
    end = first + ring.slots * lib.ADVLOG_SLOT_BYTES
    log_step(log, 1, loss=on_device(0.75))
    device.land()
    assert log.flush(10)
    assert any(ring._map[first:end])
    assert log.close()
    assert not any(ring._map[first:end])
    assert any(ring in kept for kept in deferred._kept)


def test_what_is_not_written_at_the_close_stays_for_a_recovery(device, start, tmp_path):
    pid = os.fork()
    if pid == 0:
        log = start()
        for step in range(1, 11):
            log_step(log, step, loss=on_device(float(step)))
        complete = log.close(0.0)  # waits for nothing: the drain's thread may have written some of them, or none
        device.land()
        os._exit(int(complete))
    assert os.waitpid(pid, 0)[1] == 0
    second = start()
    assert second.attempt == 2
    rows = advlog_fast.read_run(tmp_path, "run", attempts="all").metrics.to_pylist()
    assert [row["step"] for row in rows] == list(range(1, 11))
    assert all(row["loss"] == row["step"] or row["unresolved"] for row in rows)


def test_a_full_slab_is_said_and_the_record_kept(device, start):
    entries = lib.ADVLOG_SLAB_ENTRIES
    log = start(ring_bytes=8 << 20)
    for step in range(1, entries + 11):
        log_step(log, step, loss=on_device(float(step)))
    log.log_metrics({f"m{at}": on_device(1.0) for at in range(20)}, step=entries + 11)
    device.land()
    assert log.close()
    rows = rows_of(log)
    assert [row["loss"] for row in rows[:entries]] == [float(step) for step in range(1, entries + 1)]
    assert [row["unresolved"] for row in rows[entries : entries + 10]] == [[("loss", "slab_full")]] * 10
    assert unresolved(log, slab_full=30)


def test_nothing_is_enqueued_while_a_graph_is_captured(device, start):
    log = start()
    device.capturing = True
    log_step(log, 1, loss=on_device(0.5), plain=2.0)
    assert device.calls == []
    device.capturing = False
    log_step(log, 2, loss=on_device(0.5))
    device.land()
    assert log.close()
    first, second = rows_of(log)
    assert (first["loss"], first["plain"], first["unresolved"]) == (None, 2.0, [("loss", "capture")])
    assert second["loss"] == 0.5
    assert unresolved(log, capture=1)


def test_half_a_copy_is_no_value(device, start):
    log = start()
    for step in range(1, 50):
        log_step(log, step, loss=on_device(float(step)))
        for _ in device.land_torn(seed=step):
            log.flush(0.0)
    assert log.close()
    assert [row["loss"] for row in rows_of(log)] == [float(step) for step in range(1, 50)]


def test_a_record_that_never_enters_the_ring_leaves_its_entries_to_the_next(device, start):
    log = start()
    log.log_metrics({f"m{at}": 0.0 for at in range(65_535)})
    ring = log._session.accounting.drain.ring.handle
    with pytest.warns(RuntimeWarning, match="at most 65535 different names"):
        for _ in range(3):
            log.log_metrics({"one_too_many": on_device(2.0), "another": on_device(3.0)})
    assert lib.advlog_slab_used(ring) == 6
    assert log.flush(20)  # nothing waits for them
    device.land()
    wait_for(lambda: lib.advlog_slab_used(ring) == 0)
    log_step(log, 2, loss=on_device(0.25))
    device.land()
    assert log.close()
    assert [row["loss"] for row in rows_of(log)][-1] == 0.25


def test_a_ring_nearly_full_gives_up_values_rather_than_records(device, start):
    log = start(ring_bytes=64 << 10, overflow="block", overflow_timeout_s=None)
    slots = log.health().ring_slots
    for step in range(1, 2 * slots):
        log_step(log, step, loss=on_device(float(step)), plain=float(step))
    device.land()
    assert log.close()
    rows = rows_of(log)
    assert [row["plain"] for row in rows] == [float(step) for step in range(1, 2 * slots)]
    assert all(row["loss"] in (row["step"], None) for row in rows)
    assert log.health().unresolved["timeout"] >= slots


def test_the_graph_behind_a_loss_is_not_kept(device, start):
    log = start()
    weight = torch.ones(4, requires_grad=True)
    saved = weight * 2
    alive = weakref.ref(saved)
    loss = (saved * saved).sum()
    log_step(log, 1, loss=on_device(loss), also=on_device(loss * 2))
    del saved, loss
    gc.collect()
    assert alive() is None
    device.land()
    assert log.close()
    assert rows_of(log)[0]["loss"] == 16.0


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_first_call_may_come_in_any_mode(device, start, mode):
    log = start()
    with mode():
        log_step(log, 1, loss=on_device(torch.tensor(0.5) * 2))
    log_step(log, 2, loss=on_device(0.25))
    with torch.inference_mode():
        log_step(log, 3, loss=on_device(torch.tensor(0.5) / 4), two=on_device(1.0))
    device.land()
    assert log.close()
    assert [row["loss"] for row in rows_of(log)] == [1.0, 0.25, 0.125]


@pytest.mark.parametrize("value", [torch.ones(2), torch.ones(0), torch.tensor(1j)], ids=["two", "none", "complex"])
def test_what_is_no_number_is_left_out_and_nothing_else_is_lost(device, start, value):
    log = start()
    with pytest.warns(RuntimeWarning, match=r"(accuracy|metrics\['deep/mine'\]): expected a number, got ") as said:
        for _ in range(2):  # before the type is known to C, and after
            log_step(log, 1, loss=0.25, accuracy=on_device(value))
            log.log_metrics({"deep": {"mine": on_device(value)}})
            log_step(log, 2, loss=on_device(0.5))
    assert len(said) == 2
    device.land()
    assert log.close()
    assert [row["loss"] for row in rows_of(log)] == [0.25, 0.5] * 2


def test_a_dtype_that_is_not_copied_is_asked_for_its_number(device, start, monkeypatch):
    monkeypatch.setattr(OnDevice, "may_wait", True)
    log = start()
    for step in (1, 2):
        log_step(log, step, loss=on_device(torch.tensor(0.5).to(torch.float8_e4m3fn)), plain=on_device(2.0))
        assert len(device.calls) == step  # the other one is
    device.land()
    assert log.close()
    assert [(row["loss"], row["plain"]) for row in rows_of(log)] == [(0.5, 2.0)] * 2


def test_tensors_of_the_cpu_are_read_at_once(device, start):
    log = start()
    log_step(log, 1, loss=on_device(0.5))
    log_step(log, 2, loss=torch.tensor(0.25), other=torch.nn.Parameter(torch.tensor([3.0])))
    assert len(device.calls) == 1
    device.land()
    assert log.close()
    assert (rows_of(log)[1]["loss"], rows_of(log)[1]["other"]) == (0.25, 3.0)


def test_values_of_metrics_nested_and_of_performance_come_too(device, start):
    log = start()
    log.log_metrics({"a": {"b": on_device(1.0)}, "loss": on_device(2.0), "c": 3.0}, step=9)
    log.log_performance_metrics(on_device(0.1), data_time=0.05)
    device.land()
    assert log.close()
    run = advlog_fast.read_run(log.config.log_dir, "run")
    (row,) = run.metrics.to_pylist()
    assert (row["a/b"], row["loss"], row["c"], row["step"]) == (1.0, 2.0, 3.0, 9)
    assert run.system["batch_time"].to_pylist() == [torch.tensor(0.1).item()]


def test_copies_are_asked_for_on_the_callers_thread_alone(device, start):
    log = start()
    for step in range(1, 200):
        log_step(log, step, loss=on_device(0.5))
        device.land()
    assert log.close()
    assert device.threads == {threading.get_ident()}


def test_many_threads_each_get_their_own_values(device, start):
    log = start(text=False, jsonl=False)

    def work(number):
        for step in range(1, 301):
            log_step(log, step, loss=on_device(float(1000 * number + step)), thread=float(number))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        device.land()
    device.land()
    assert log.close()
    assert unresolved(log)
    assert sorted(row["loss"] - 1000 * row["thread"] - row["step"] for row in rows_of(log)) == [0.0] * 1200


def test_memory_that_cannot_be_page_locked_is_replaced(device, start):
    device.locks_pages = False
    log = start()
    log_step(log, 1, loss=on_device(0.5))
    device.land()
    assert log.close()
    assert rows_of(log)[0]["loss"] == 0.5


def test_a_device_that_refuses_is_said_once_and_harms_nobody(device, start):
    device.fault = RuntimeError("CUDA error: device-side assert triggered")
    log = start(deferred_timeout_s=0.05)
    for step in range(1, 4):
        log_step(log, step, loss=on_device(0.5), plain=1.0)
    assert log.close()
    assert [row["plain"] for row in rows_of(log)] == [1.0] * 3
    assert unresolved(log, timeout=3)
    said = [line for line in log.paths["main_log"].read_text().splitlines() if "could not be copied" in line]
    assert len(said) == 1
    assert "device-side assert" in said[0]


def test_a_forked_child_reads_its_values_itself(device, start, tmp_path):
    log = start()
    log_step(log, 1, loss=on_device(0.5))
    device.land()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            OnDevice.may_wait = True
            log_step(log, 2, loss=on_device(0.25))
            status = 0 if log.flush(20) and not device.calls else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert log.close()
    assert sorted((row["worker"], row["loss"]) for row in rows_of(log)) == [(0, 0.5), (1, 0.25)]


@pytest.mark.parametrize("most", [4096, 65_536])
def test_after_a_kill_what_had_landed_is_there_and_the_rest_is_said_to_be_lost(device, start, tmp_path, capsys, most):
    """In the drain's own words, read from the ring of a process that is gone."""
    pid = os.fork()
    if pid == 0:
        options = {"console": "off", "memory_interval_s": 0, "deferred_timeout_s": 1e5, "deferred_values": most}
        log = advlog_fast.AdvancedLogger(tmp_path, "run", **options)
        for step in range(1, 21):
            log_step(log, step, loss=on_device(float(step)), twice=on_device(2.0 * step))
        device.land(10, at=1)  # the first holds back all of them
        os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)
    (found,) = recover(tmp_path, "run")
    assert found.outcome == "recovered"
    rows = advlog_fast.read_run(tmp_path, "run").metrics.to_pylist()
    landed = set(range(2, 12))
    assert [row["step"] for row in rows] == list(range(1, 21))
    for row in rows:
        values = (row["loss"], row["twice"], row["unresolved"])
        killed = (None, None, [("loss", "killed"), ("twice", "killed")])
        assert values == ((row["step"], 2.0 * row["step"], None) if row["step"] in landed else killed)
    assert verify(tmp_path, "run") == []
    summary = json.loads((tmp_path / "run_summary.json").read_text())
    assert summary["metrics"]["loss"]["count"] == 10
    assert summary["accounting"]["unresolved"] == {**dict.fromkeys(REASONS, 0), "killed": 20}
    assert main(["show", str(tmp_path), "run"]) == 0
    assert "\nvalues that never came from a GPU: 20 by killed\n" in capsys.readouterr().out


@pytest.mark.parametrize("kills", [4, pytest.param(100, marks=pytest.mark.stress)])
def test_a_kill_at_any_moment_loses_no_record_and_makes_no_value_up(device, tmp_path, kills):
    chance = random.Random(kills)
    for kill in range(kills):
        folder = tmp_path / str(kill)
        returned = mmap.mmap(-1, 8)
        pid = os.fork()
        if pid == 0:
            log = advlog_fast.AdvancedLogger(folder, "run", console="off", memory_interval_s=0, ring_bytes=1 << 16)
            threading.Thread(target=land_forever, args=(device, kill), daemon=True).start()
            for step in itertools.count(1):
                log_step(log, step, loss=on_device(float(step)), twice=on_device(2.0 * step), plain=float(step))
                returned[:] = step.to_bytes(8, "little")
        wait_for(lambda: int.from_bytes(returned[:], "little") > 100)  # noqa: B023 - it is called at once
        time.sleep(chance.random() / 10)
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        recover(folder, "run")
        # A call may have been caught between its reservation and its publication.
        assert [each for each in verify(folder, "run") if not each.explained] == []
        rows = advlog_fast.read_run(folder, "run").metrics.to_pylist()
        acknowledged = int.from_bytes(returned[:], "little")
        assert acknowledged <= len(rows) <= acknowledged + 1
        for step, row in enumerate(rows, 1):
            assert (row["step"], row["plain"]) == (step, step)
            told = dict(row["unresolved"] or ())
            for name, value in (("loss", step), ("twice", 2 * step)):
                assert row[name] == value or (row[name] is None and told[name] in ("killed", "timeout"))


def land_forever(device, seed):
    while True:
        device.enqueued.wait()
        device.enqueued.clear()
        for _ in device.land_torn(seed):
            pass


def test_the_summary_accounts_for_what_never_came(device, start):
    log = start(deferred_timeout_s=0.05)
    log_step(log, 1, loss=on_device(0.5))
    log_step(log, 2, loss=1.0)
    assert log.close()
    summary = json.loads(log.paths["summary"].read_text())
    assert summary["accounting"]["unresolved"] == {**dict.fromkeys(REASONS, 0), "timeout": 1}
    assert summary["loss_stats"]["mean"] == 1.0


class Cuda:
    """torch.cuda, as its documentation has it, for the few calls that the package makes of it itself."""

    def __init__(self) -> None:
        self.device_now, self.stream_now, self.capturing_on = 0, 100, None
        self.said: list[tuple] = []
        self.refuses = 0

    def current_device(self) -> int:
        return self.device_now

    @contextlib.contextmanager
    def device(self, index):
        before, self.device_now = self.device_now, index
        yield
        self.device_now = before

    def is_current_stream_capturing(self) -> bool:
        return self.device_now == self.capturing_on

    def current_stream(self, index):
        stream = self.stream_now + index
        return SimpleNamespace(
            cuda_stream=stream,
            record_event=lambda: self.said.append(("record", stream)) or f"event of {stream}",
            wait_event=lambda event: self.said.append(("wait", stream, event)),
        )

    def cudart(self):
        return SimpleNamespace(cudaHostRegister=lambda *given: self.said.append(("lock", *given)) or self.refuses)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    made = Cuda()
    monkeypatch.setattr(torch, "cuda", made)
    return made


def test_a_capture_is_that_of_the_tensors_device(cuda):
    cuda.capturing_on = 1
    assert [deferred.DeviceQueue.is_capturing(index) for index in (0, 1, 2)] == [False, True, False]
    assert cuda.device_now == 0


@pytest.mark.parametrize(("status", "locked"), [(0, True), (1, False)])
def test_memory_is_page_locked_for_every_device(cuda, status, locked):
    cuda.refuses = status
    assert deferred.DeviceQueue.page_lock(4096, 64) is locked
    assert cuda.said == [("lock", 4096, 64, 1)]


@pytest.mark.parametrize("raw", [False, True])
def test_each_stream_waits_once_for_the_one_that_made_the_pairs(cuda, monkeypatch, raw):
    if raw:
        monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: cuda.stream_now + index, raising=False)
    monkeypatch.setattr(deferred.DeviceQueue, "device", staticmethod(lambda index: torch.device("cpu")))
    host = torch.zeros((lib.ADVLOG_SLAB_ENTRIES, 2), dtype=torch.int64)
    queue = deferred.DeviceQueue(3, host)
    for stream in (100, 200, 200, 300, 100, 200):
        cuda.stream_now = stream
        queue.copy([torch.tensor(0.5)], 7, -9)
    assert cuda.said == [("record", 103), ("wait", 203, "event of 103"), ("wait", 303, "event of 103")]
    value, check = host[7].tolist()
    assert (bits_of(0.5), check) == (value.to_bytes(8, "little"), value ^ -9)


def test_a_validation_waits_once_for_all_its_values(start, monkeypatch):
    log = start()
    waits = []
    plain = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: waits.append(len(self)) or plain(self))
    values = {f"m{at}": on_device(float(at)) for at in range(20)}
    log.log_validation(1, {**values, "count": on_device(2**40, torch.int64), "half": on_device(0.5, torch.bfloat16)})
    assert sum(waits) == 21  # one int64 is asked by itself
    best = log.get_training_summary()
    assert best["validations"] == 1
    log.end_epoch(1, values)
    assert waits == [21, 20]
