"""The hot call and its relatives take what Python would, log it to the bit, and refuse the rest with a reason."""

from __future__ import annotations

import copy
import gc
import inspect
import json
import math
import os
import pickle
import threading
import weakref
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from advlog_fast import AdvancedLogger, read_jsonl, read_run
from advlog_fast._native import Producer, lib
from advlog_fast.engine.ring import Ring
from advlog_fast.store.paths import RunPaths
from advlog_fast.store.ranks import RunIdentity

ORDER = (
    "epoch",
    "batch",
    "total_batches",
    "loss",
    "accuracy",
    "learning_rate",
    "gradient_norm",
    "batch_time",
    "data_time",
    "step",
)
FIXED = ("timestamp", "attempt", "rank", "seq", "kind")


@pytest.fixture
def log(tmp_path: Path) -> Iterator[AdvancedLogger]:
    with AdvancedLogger(tmp_path, "run", console="off", parquet=False, text=False) as logger:
        yield logger


def rows_of(log: AdvancedLogger, stream: str = "metrics_jsonl") -> list[dict[str, Any]]:
    assert log.flush()
    rows = list(read_jsonl(log.paths[stream]))
    return [{name: value for name, value in row.items() if name not in FIXED} for row in rows]


def test_signatures_are_the_guides():
    parameters = inspect.signature(AdvancedLogger.log_batch_progress).parameters
    assert list(parameters) == ["self", *ORDER, "metrics"]
    assert all(parameters[name].default is inspect.Parameter.empty for name in ORDER[:4])
    assert all(parameters[name].default is None for name in ORDER[4:])
    assert parameters["metrics"].kind is inspect.Parameter.VAR_KEYWORD
    assert str(inspect.signature(AdvancedLogger.log_performance_metrics)) == "(self, /, batch_time, data_time=None)"
    assert "float64" in (AdvancedLogger.log_batch_progress.__doc__ or "")


@pytest.mark.parametrize("by_position", range(len(ORDER) + 1))
def test_every_argument_goes_by_position_and_by_keyword(log: AdvancedLogger, by_position: int):
    values = dict(zip(ORDER, (1, 2, 3, 0.5, 0.25, 0.125, 2.0, 0.75, 1e-3, 77), strict=True))
    keywords = {name: values[name] for name in ORDER[by_position:]}
    log.log_batch_progress(*list(values.values())[:by_position], **keywords, other=9.0)
    assert rows_of(log) == [{**values, "other": 9.0}]


def test_call_sites_and_mappings_that_change_never_mix_their_names(log: AdvancedLogger):
    expected = []
    for i in range(300):
        log.log_batch_progress(epoch=1, batch=i, total_batches=300, loss=i / 2)
        log.log_batch_progress(1, i, 300, loss=i / 4, accuracy=0.5)
        log.log_batch_progress(1, i, 300, accuracy=i / 8, loss=0.5)
        names = [f"m{(i * 5 + k) % 40}" for k in range(i % 35)]  # more names than a plan holds, at times
        mapping = {name: float(i + k) for k, name in enumerate(names)}
        log.log_batch_progress(1, i, 300, 1.0, **mapping)
        calls: list[dict[str, float]] = [{"loss": i / 2}, {"loss": i / 4, "accuracy": 0.5}]
        calls += [{"accuracy": i / 8, "loss": 0.5}, {"loss": 1.0, **mapping}]
        expected += [{"epoch": 1, "batch": i, "total_batches": 300, "step": i, **call} for call in calls]
    assert rows_of(log) == expected


def test_more_call_sites_than_plans_each_keep_their_own(log: AdvancedLogger):
    scope: dict[str, Any] = {"log": log}
    sites = "".join(f"    log.log_batch_progress(1, 1, 1, 0.5, a{n}={n}.0, b{n}=i)\n" for n in range(30))
    exec(f"for i in range(3):\n{sites}", scope)  # noqa: S102 each line is a call site of its own
    rows = rows_of(log)
    assert [(row[f"a{n % 30}"], row[f"b{n % 30}"]) for n, row in enumerate(rows)] == [
        (float(n % 30), float(n // 30)) for n in range(90)
    ]
    assert all(len(row) == 7 for row in rows)


def test_none_is_absent_and_the_step_is_derived_or_null(log: AdvancedLogger):
    log.log_batch_progress(2, 3, 10, None, accuracy=None, other=None)
    log.log_batch_progress(2, 3, None, 0.5)
    log.log_batch_progress(0, -3, 10, 0.5, step=None)
    log.log_batch_progress(1, 1, 10, 0.5, step=-(2**63))
    assert rows_of(log) == [
        {"epoch": 2, "batch": 3, "total_batches": 10, "step": 13},
        {"epoch": 2, "batch": 3, "loss": 0.5},
        {"epoch": 0, "batch": -3, "total_batches": 10, "step": -13, "loss": 0.5},
        {"epoch": 1, "batch": 1, "total_batches": 10, "step": -(2**63), "loss": 0.5},
    ]


class Half(float):
    """A float with ideas of its own."""

    def __float__(self) -> float:
        return 0.5


def test_scalars_of_every_make_are_the_number_they_hold(log: AdvancedLogger):
    makes = {
        0.5: [0.5, np.float64(0.5), np.float32(0.5), np.float16(0.5), np.array(0.5), np.array([[0.5]]), Half(0.5)],
        1.0: [1, True, np.int8(1), np.uint64(1), np.bool_(True)],
        2.0**60: [2**60],
        -(2.0**53): [-(2**53)],
    }
    for values in makes.values():
        for value in values:
            log.log_batch_progress(np.int64(1), np.array(2), np.uint8(3), value, other=value)
    found = [(row["epoch"], row["batch"], row["step"], row["loss"], row["other"]) for row in rows_of(log)]
    assert found == [(1, 2, 2, number, number) for number, values in makes.items() for _ in values]


class Scalar:
    """Has what a scalar of numpy has, and an item() that does as it is told."""

    shape = ()

    def __init__(self, item: Callable[[], Any]) -> None:
        self._item = item

    def item(self) -> Any:
        return self._item()


def test_a_scalar_is_read_whatever_its_item_does(log: AdvancedLogger):
    def log_another() -> float:
        log.log_batch_progress(1, 1, 1, Scalar(lambda: 0.25), inner=np.float32(1.5))
        return 0.5

    def interrupt() -> float:
        raise KeyboardInterrupt

    log.log_batch_progress(1, 0, 1, Scalar(lambda: 0.0), other=np.float32(1.5))  # from here on both types are known
    log.log_batch_progress(1, 2, 1, Scalar(log_another), other=np.float32(2.5))
    log.log_batch_progress(1, 3, 1, Scalar(lambda: True), **{f"m{i}": np.float32(i) for i in range(100)})
    with pytest.raises(KeyboardInterrupt):
        log.log_batch_progress(1, 4, 1, Scalar(interrupt))
    with pytest.warns(RuntimeWarning, match=r"^loss: expected a(n integer| number)") as said:
        for item in (lambda: "text", lambda: 1 / 0, lambda: 2**53 + 1):
            log.log_batch_progress(1, 5, 1, Scalar(item))
    assert len(said) == 2, "no number, and a rounded one"
    rows = rows_of(log)
    assert [(row["batch"], row.get("loss"), row.get("other"), row.get("inner")) for row in rows] == [
        (0, 0.0, 1.5, None),
        (1, 0.25, None, 1.5),
        (2, 0.5, 2.5, None),
        (3, 1.0, None, None),
        (5, None, None, None),
        (5, None, None, None),
        (5, 2.0**53, None, None),
    ]
    assert [rows[3][f"m{i}"] for i in range(100)] == list(range(100))


def test_a_scalar_whose_item_closes_the_logger_harms_nothing(log: AdvancedLogger):
    log.log_batch_progress(1, 1, 1, Scalar(lambda: 0.5))

    def close() -> float:
        log.close()
        return 0.25

    with pytest.warns(RuntimeWarning, match="closed"):
        log.log_batch_progress(1, 2, 1, Scalar(close))
    assert log.health().dropped_at_entry["closed"] == 1


@pytest.mark.torch
def test_torch_scalars_are_the_number_they_hold(log: AdvancedLogger):
    import torch

    values = [torch.tensor(0.5), torch.tensor([0.5], requires_grad=True), torch.tensor(0.5, dtype=torch.bfloat16)]
    for value in values:
        log.log_batch_progress(torch.tensor(1), 1, 1, value, other=value)
    assert [(row["epoch"], row["loss"], row["other"]) for row in rows_of(log)] == [(1, 0.5, 0.5)] * len(values)


def test_a_name_that_is_a_subclass_of_str_is_the_string_it_holds(log: AdvancedLogger):
    log.log_metrics({np.str_("epoch"): 3, np.str_("loss"): 0.5, np.str_("other"): 1.5})
    log.log_batch_progress(1, 1, 1, 0.25, **{np.str_("other"): 2.5})
    rows = rows_of(log)
    assert rows[0] == {"epoch": 3, "loss": 0.5, "other": 1.5}
    assert (rows[1]["loss"], rows[1]["other"]) == (0.25, 2.5)


def test_a_name_of_a_subclass_dies_with_its_call_and_in_no_later_one(log: AdvancedLogger):
    """Its code may be a `close()`, for which no call has room between the look at the ring and the record."""
    died = []

    class Name(str):
        __slots__ = ()

        def __del__(self):
            died.append(str(self))

    for i in range(20):
        mapping = {Name("accuracy"): 0.5}
        log.log_batch_progress(1, i, 20, 0.25, **mapping)
        assert len(died) == i
        del mapping
        assert len(died) == i + 1


def test_names_that_outputs_cannot_have_are_left_out(log: AdvancedLogger):
    for name in ("seq", "timestamp", "rank", "", "x" * 256, "\ud800"):
        with pytest.warns(RuntimeWarning, match="name"):
            log.log_batch_progress(1, 1, 1, 0.5, **{name: 1.0})
    log.log_batch_progress(1, 1, 1, 0.5, **{"x" * 255: 1.0, "Überraschung/ß": 2.0, 'a "b"\n': 3.0})
    *before, row = rows_of(log)
    assert [len(other) for other in before] == [len(before[0])] * 6
    assert (row["x" * 255], row["Überraschung/ß"], row['a "b"\n']) == (1.0, 2.0, 3.0)


def test_there_are_65535_names_and_a_value_under_one_more_is_left_out(log: AdvancedLogger):
    names = [f"n{i}" for i in range(65_535)]
    log.log_metrics(dict(zip(names, map(float, range(len(names))), strict=True)), step=1)
    with pytest.warns(RuntimeWarning, match="at most 65535 different names") as said:
        for i in range(10):
            log.log_batch_progress(1, i, 10, 0.5, **{f"more{i}": 1.0, "n65534": -0.0})
            log.log_metrics({f"more{i}": 1.0, "n7": 7.5, "none": None}, step=100 + i)
    assert len(said) == 1
    assert log.health().misuse["names_full"].count == 20
    rows = rows_of(log)
    wide = [row for row in rows if row["step"] == 1 and "batch" not in row]
    assert {name: value for row in wide for name, value in row.items() if name != "step"} == {
        name: float(i) for i, name in enumerate(names)
    }
    assert [row["n7"] for row in rows if row["step"] >= 100] == [7.5] * 10
    assert [math.copysign(1, row["n65534"]) for row in rows if "batch" in row] == [-1.0] * 10
    assert not [name for row in rows for name in row if name.startswith("more")]
    summary = log.get_training_summary()
    assert (len(summary["metrics"]), summary["metric_names"]) == (2001, 65_535)


@pytest.mark.parametrize("at", [65_525, 65_526, 65_529, 65_530, 65_534])
def test_the_last_names_are_themselves_in_every_call(log: AdvancedLogger, at: int):
    names = [f"n{i}" for i in range(65_535)]
    log.log_metrics(dict.fromkeys(names, 1.0), step=1)
    for step in (100, 101, 102):
        log.log_metrics({names[at]: 7.25}, step=step)
        log.log_batch_progress(1, step, 1000, 0.5, **{names[at]: 8.5})
    rows = [row for row in rows_of(log) if row["step"] >= 100]
    assert [row.get(names[at]) for row in rows] == [7.25, 8.5] * 3
    assert [row.get("loss") for row in rows] == [None, 0.5] * 3
    assert all(set(row) <= {"epoch", "batch", "total_batches", "step", "loss", names[at]} for row in rows)


def test_a_record_that_has_nothing_but_names_without_room_is_none(log: AdvancedLogger):
    log.log_metrics({f"n{i}": 1.0 for i in range(65_535)})
    before = len(rows_of(log))
    with pytest.warns(RuntimeWarning, match="at most 65535 different names"):
        for step in range(5):
            log.log_metrics({"one more": 1.0}, step=step)
    assert len(rows_of(log)) == before
    assert log.health().misuse["names_full"].count == 5
    with pytest.raises(TypeError, match=r"^foo: expected log_performance_metrics"):
        log.log_performance_metrics(0.5, foo=1.0)


def test_a_moment_without_shared_memory_costs_the_names_of_that_moment_alone(log: AdvancedLogger):
    ring = log._session.accounting.drain.ring
    fd = os.open(ring.path, os.O_RDWR)
    lib.advlog_ring_set_file(ring.handle, -1)  # as where the file system supplies no more room
    with pytest.warns(RuntimeWarning, match="expected room in shared memory for the name of one more metric") as said:
        for i in range(400):
            log.log_metrics({f"{i:0200}": 1.0, "loss": 0.5}, step=i)
    assert len(said) == 1
    missing = log.health().misuse["names_full"].count
    assert 0 < missing < 400
    lib.advlog_ring_set_file(ring.handle, fd)
    for i in range(400):
        log.log_metrics({f"later {i:0200}": 2.0}, step=1000 + i)
    rows = rows_of(log)
    assert [row["loss"] for row in rows[:400]] == [0.5] * 400
    assert sum(len(row) == 3 for row in rows[:400]) == 400 - missing
    assert [row[f"later {i:0200}"] for i, row in enumerate(rows[400:])] == [2.0] * 400
    assert log.health().misuse["names_full"].count == missing
    assert log.close()
    os.close(fd)


def test_a_metric_may_be_called_as_a_count_of_ours(log: AdvancedLogger):
    with pytest.warns(RuntimeWarning):
        log.log_metrics({"names_full": "x", "others": "y", "b" * 10_000: "z"}, step=1)
    assert {name[:30] for name in log.health().misuse} == {
        "metrics['names_full']",
        "metrics['others']",
        "b" * 30,
    }
    assert max(map(len, log.health().misuse)) <= 300
    assert len((log.paths["main_log"]).read_text()) < 4000


def test_a_metric_may_be_called_self(log: AdvancedLogger):
    for step in (1, 2):
        log.log_batch_progress(1, step, 10, "no number" if step == 2 else 0.5, self=3.0)
    log.log_metrics({"self": 4.0}, step=3)
    assert [row["self"] for row in rows_of(log)] == [3.0, 3.0, 4.0]


def test_a_name_that_a_child_gave_a_full_ring_is_known(log: AdvancedLogger):
    assert log.flush()
    ring = log._session.accounting.drain.ring
    other = Producer()
    other._bind(ring.address, ring)
    assert other._learn("of a child")
    log.log_metrics({f"n{i}": 1.0 for i in range(65_534)})
    with pytest.warns(RuntimeWarning, match="at most 65535"):
        log.log_metrics({"one more": 1.0})
    log.log_metrics({"of a child": 2.5, "another": 1.0}, step=7)
    assert [row for row in rows_of(log) if row.get("step") == 7] == [{"step": 7, "of a child": 2.5}]


def test_what_a_column_cannot_hold_is_left_out(log: AdvancedLogger):
    with pytest.warns(RuntimeWarning, match=r"^loss: expected a number that float64 can hold"):
        for value in (10**400, -(10**400)):
            log.log_batch_progress(None, None, None, value)
    with pytest.warns(RuntimeWarning, match=r"^step: expected an integer from"):
        for step in (2**63, -(2**63) - 1):
            log.log_batch_progress(None, None, None, 0.5, step=step)
    assert [(row.get("loss"), row.get("step")) for row in rows_of(log)] == [(None, None)] * 2 + [(0.5, None)] * 2


def test_performance_metrics_go_to_the_system_stream(log: AdvancedLogger):
    log.log_performance_metrics(0.5, 0.25)
    log.log_performance_metrics(batch_time=np.float32(0.5))
    for wrong in ({}, {"batch_time": 1.0, "loss": 1.0}, {"data_time": 0.5}):
        with pytest.raises(TypeError):
            log.log_performance_metrics(**wrong)
    log.log_performance_metrics(None)
    with pytest.warns(RuntimeWarning, match=r"^batch_time: expected a number"):
        log.log_performance_metrics("1", data_time=0.125)
    rows = [row for row in rows_of(log, "system_jsonl") if "cpu_memory_gb" not in row]
    assert rows == [{"batch_time": 0.5, "data_time": 0.25}, {"batch_time": 0.5}, {"data_time": 0.125}]


def test_a_copy_is_the_logger_itself_and_so_is_a_pickle_in_its_own_process(log: AdvancedLogger):
    assert copy.copy(log) is log
    assert copy.deepcopy({"a": [log]})["a"][0] is log
    assert pickle.loads(pickle.dumps(log)) is log  # noqa: S301 our own


def test_an_instance_that_was_never_initialised_does_nothing():
    for kind in (Producer, AdvancedLogger):
        bare = kind.__new__(kind)
        assert bare.log_batch_progress(1, 1, 1, 0.5, anything="goes") is None
        assert bare.log_performance_metrics("nothing") is None
        assert bare.log_metrics("nothing") is None
        assert bare._try_record(lib.ADVLOG_KIND_BATCH, 0, {"loss": 0.5}) == lib.ADVLOG_OFF
        assert bare._learn("x") is None
        with pytest.raises(TypeError):
            bare._learn(1)


def test_after_close_a_record_is_counted_and_said_once(tmp_path: Path):
    log = AdvancedLogger(tmp_path, "run", console="off", parquet=False)
    log.log_batch_progress(1, 1, 1, 0.5)
    log.close()
    with pytest.warns(RuntimeWarning, match=r"after close\(\)") as said:
        for _ in range(10):
            log.log_batch_progress(1, 1, 1, 0.5)
    assert len(said) == 1
    health = log.health()
    assert (health.dropped_at_entry["closed"], health.offered) == (10, health.accepted + 10)
    assert len(read_jsonl(log.paths["metrics_jsonl"])) == 1


def test_a_subclass_may_override_the_hot_call_and_call_the_base(tmp_path: Path):
    class Doubled(AdvancedLogger):
        def log_batch_progress(self, *args: Any, **kwargs: Any) -> None:
            super().log_batch_progress(*args, **kwargs, doubled=1.0)

    with Doubled(tmp_path, "run", console="off", parquet=False) as log:
        log.note = {"cycle": log}
        log.log_batch_progress(1, 2, 3, loss=0.5)
        assert [row["doubled"] for row in rows_of(log)] == [1.0]
    gone = weakref.ref(log)
    del log
    gc.collect()
    assert gone() is None


def test_binding_to_another_ring_forgets_the_names_of_the_first(tmp_path: Path):
    run = RunIdentity("0" * 32, "run", 1, 0, 1, "host", os.getpid())
    first, second = (Ring(run, 0, tmp_path / folder, RunPaths(tmp_path, "run")) for folder in ("a", "b"))
    producer = Producer()
    producer._bind(first.address, first)
    assert producer._learn("x")
    record = {"loss": 0.5, "x": 1.0}
    for _ in range(2):
        assert producer._try_record(lib.ADVLOG_KIND_BATCH, 0, record) == lib.ADVLOG_OK
    with pytest.raises(ValueError, match="expected the address of a ring"):
        producer._bind(first.address + 8, first)
    producer._bind(second.address, second)
    assert producer._learn("y")
    assert producer._try_record(lib.ADVLOG_KIND_BATCH, 0, record) == lib.ADVLOG_SLOW
    assert producer._learn("x")
    assert producer._try_record(lib.ADVLOG_KIND_BATCH, 0, record) == lib.ADVLOG_OK
    assert (first.names(), second.names()) == (["x"], ["y", "x"])
    producer._unbind()
    assert producer._try_record(lib.ADVLOG_KIND_BATCH, 0, record) == lib.ADVLOG_OFF
    first.file.remove()
    second.file.remove()


@pytest.mark.parametrize(
    "records", [pytest.param(100_000, id="short"), pytest.param(1_000_000, id="long", marks=pytest.mark.stress)]
)
def test_four_threads_lose_double_and_tear_nothing(tmp_path: Path, records: int):
    threads = 4
    with AdvancedLogger(
        tmp_path, "run", console="off", overflow_timeout_s=None, max_log_size=1 << 40, memory_interval_s=3600
    ) as log:

        def produce(thread: int) -> None:
            for i in range(records):
                value = float(thread * records + i)
                if i % 4:
                    log.log_batch_progress(thread, i, records, value, accuracy=-value)
                else:  # two slots
                    log.log_batch_progress(thread, i, records, value, a=value, b=value, c=value, d=value, e=value)

        running = [threading.Thread(target=produce, args=(thread,)) for thread in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        health = log.health()
        assert (health.offered, sum(health.dropped_at_entry.values())) == (health.accepted, 0)
    table = read_run(tmp_path, "run").metrics
    columns = {name: table[name].to_numpy() for name in ("epoch", "batch", "loss", "accuracy", "seq")}
    _check_whole(columns, table["a"].to_numpy(), table["e"].to_numpy(), records)
    # A line at a time: four million rows as dictionaries would not fit every machine.
    lines = {name: array("d") for name in (*columns, "a", "e")}
    with (tmp_path / "run_metrics.jsonl").open() as file:
        for row in map(json.loads, file):
            for name, values in lines.items():
                values.append(row.get(name, math.nan))
    a, e = (np.array(lines.pop(name)) for name in ("a", "e"))
    _check_whole({name: np.array(values) for name, values in lines.items()}, a, e, records)


def _check_whole(columns: dict[str, Any], a: Any, e: Any, records: int) -> None:
    loss, batch, epoch = columns["loss"], columns["batch"], columns["epoch"]
    assert len(loss) == 4 * records
    np.testing.assert_array_equal(np.sort(columns["seq"]), np.arange(1, len(loss) + 1))
    order = np.argsort(columns["seq"])
    np.testing.assert_array_equal(np.sort(loss), np.arange(len(loss)))
    np.testing.assert_array_equal(loss, epoch * records + batch)
    for thread in range(4):  # each thread's records stand in its order
        np.testing.assert_array_equal(batch[order][epoch[order] == thread], np.arange(records))
    wide = batch % 4 == 0
    np.testing.assert_array_equal(columns["accuracy"][~wide], -loss[~wide])
    for extra in (a, e):
        np.testing.assert_array_equal(extra[wide], loss[wide])
        assert np.isnan(extra[~wide].astype(float)).all()


def test_scalars_of_other_libraries_in_a_mapping_are_taken_in_c_once_their_kind_is_known(tmp_path: Path):
    class Watches(AdvancedLogger):
        slow = 0

        def _log_metrics_slowly(self, /, *args: Any, **kwargs: Any) -> None:
            self.slow += 1
            super()._log_metrics_slowly(*args, **kwargs)

    class Breaks:
        shape = ()
        broken = False

        def item(self) -> float:
            if self.broken:
                raise ValueError("no data")
            return 0.5

    given = {"a": np.float32(0.1), "b": np.int64(7), "c": 2.5, "d": Breaks(), "epoch": np.int32(3)}
    with Watches(tmp_path, "run", console="off", parquet=False, text=False) as log:
        for step in (1, 2, 3):
            log.log_metrics(given, step)
        assert log.slow == 1
        assert type(given["a"]) is np.float32  # the mapping is the program's
        log.log_metrics({"a": np.zeros(2), "b": np.int64(8)}, 4)
        given["d"].broken = True
        log.log_metrics(given, 5)
        log.log_metrics({"a": np.float32(0.25), "step": np.int64(9)}, 6)
        assert log.health().misuse.keys() == {"a", "d"}
        rows = rows_of(log)
    whole = {"epoch": 3, "a": float(np.float32(0.1)), "b": 7.0, "c": 2.5}
    assert [{name: row[name] for name in row if row[name] is not None} for row in rows] == [
        *({"step": step, **whole, "d": 0.5} for step in (1, 2, 3)),
        {"step": 4, "b": 8.0},
        {"step": 5, **whole},
        {"step": 6, "a": 0.25},
    ]
