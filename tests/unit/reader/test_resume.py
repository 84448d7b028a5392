"""A resumed run shows every record that came before its state, and none that came after it."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil

import pytest

from advlog_fast import AdvancedLogger, follow, read_run

LATER_KEYS = ("rank", "seq", "max_step", "total_batches")


def opened(folder, rank=0, world_size=1, **options):
    options = {"console": "off", "memory_interval_s": 0, **options}
    return AdvancedLogger(folder, "run", rank=rank, world_size=world_size, **options)


def ranks_of(folder, count, states=None):
    logs = [opened(folder, rank, count) for rank in range(count)]
    for log, state in zip(logs, states or [None] * count, strict=True):
        log.load_state_dict(json.loads(json.dumps(state)))
    return logs


def train(logs, first, last, *, keep_at=None):
    """Logs batches of all ranks; returns the states of all ranks after that step."""
    kept = None
    for step in range(first, last + 1):
        for rank, log in enumerate(logs):
            log.log_batch_progress(1, step, 100, float(step), mine=rank)
        if step == keep_at:
            kept = [log.state_dict() for log in logs]
    for log in logs:
        log.close()
    return kept


def steps_by_rank(run):
    found = {}
    columns = [run.metrics[name].to_pylist() for name in ("rank", "attempt", "step")]
    for rank, attempt, step in zip(*columns, strict=True):
        found.setdefault(rank, []).append((attempt, step))
    return found


def series(attempt, first, last):
    return [(attempt, step) for step in range(first, last + 1)]


def test_a_state_of_rank_0_alone_resumes_four_ranks(tmp_path):
    states = train(ranks_of(tmp_path, 4), 1, 10, keep_at=6)
    train(ranks_of(tmp_path, 4, [states[0]] * 4), 7, 9)
    wanted = [*series(1, 1, 6), *series(2, 7, 9)]
    assert steps_by_rank(read_run(tmp_path, "run")) == dict.fromkeys(range(4), wanted)


def test_ranks_with_their_own_states_are_cut_where_each_of_them_was(tmp_path):
    logs = ranks_of(tmp_path, 2)
    logs[1].log_metrics({"warm": 1.0})  # one record more
    states = train(logs, 1, 10, keep_at=6)
    assert [state["seq"] for state in states] == [6, 7]
    train(ranks_of(tmp_path, 2, states), 7, 8)
    found = steps_by_rank(read_run(tmp_path, "run"))
    assert found == {0: [*series(1, 1, 6), *series(2, 7, 8)], 1: [(1, None), *series(1, 1, 6), *series(2, 7, 8)]}


def test_four_ranks_go_on_as_two(tmp_path):
    states = train(ranks_of(tmp_path, 4), 1, 10, keep_at=6)
    train(ranks_of(tmp_path, 2, states[:2]), 7, 8)
    run = read_run(tmp_path, "run")
    resumed = [*series(1, 1, 6), *series(2, 7, 8)]
    assert steps_by_rank(run) == {0: resumed, 1: resumed, 2: series(1, 1, 6), 3: series(1, 1, 6)}
    curve = run.series("loss").to_pydict()
    assert (curve["step"], curve["of"]) == (list(range(1, 9)), [4] * 6 + [2] * 2)
    assert curve["ranks"] == curve["of"]


def test_an_evaluation_at_the_step_of_the_checkpoint_hides_nothing(tmp_path):
    for world_size, folder in ((1, tmp_path / "one"), (2, tmp_path / "two")):
        states = train(ranks_of(folder, world_size), 1, 10, keep_at=10)
        logs = ranks_of(folder, world_size, [states[0]] * world_size)
        for log in logs:
            log.log_metrics({"val_loss": 0.1}, step=10)
        train(logs, 11, 20)
        curve = read_run(folder, "run").series("loss")
        assert curve["step"].to_pylist() == list(range(1, 21))
        assert read_run(folder, "run").metrics.num_rows == 21 * world_size


@pytest.mark.parametrize("world_size", [1, 3])
def test_an_evaluation_logged_by_epoch_does_not_move_the_cut(tmp_path, world_size):
    logs = ranks_of(tmp_path, world_size)
    for epoch in (1, 2):
        for rank, log in enumerate(logs):
            for batch in range(1, 101):
                log.log_batch_progress(epoch, batch, 100, 1.0, mine=rank)
        logs[0].log_metrics({"val/acc": 0.5}, step=epoch)
    state = logs[0].state_dict()
    assert (state["step"], state["max_step"]) == (2, 200)
    for log in logs:
        for batch in range(1, 11):
            log.log_batch_progress(3, batch, 100, 1.0)  # lost with the process
        log.close()
    logs = ranks_of(tmp_path, world_size, [state] * world_size)
    for log in logs:
        for batch in range(1, 101):
            log.log_batch_progress(3, batch, 100, 1.0)
        log.close()
    found = steps_by_rank(read_run(tmp_path, "run"))
    assert {rank: len(mine) for rank, mine in found.items()} == {0: 302, **dict.fromkeys(range(1, world_size), 300)}


def test_what_a_child_process_logs_does_not_move_the_cut(tmp_path):
    log = opened(tmp_path)
    for batch in range(1, 6):
        log.log_batch_progress(1, batch, 100, 1.0)
    child = multiprocessing.get_context("fork").Process(target=log.log_metrics, args=({"loaded": 1.0}, 50))
    child.start()
    child.join()
    log.flush()
    state = log.state_dict()
    assert (state["step"], state["max_step"], state["seq"]) == (5, 5, 6)
    for batch in range(6, 11):
        log.log_batch_progress(1, batch, 100, 1.0)
    log.close()
    log = opened(tmp_path)
    log.load_state_dict(state)
    for batch in range(6, 8):
        log.log_batch_progress(1, batch, 100, 1.0)
    log.close()
    found = steps_by_rank(read_run(tmp_path, "run"))[0]
    assert sorted(found) == [*series(1, 1, 5), (1, 50), *series(2, 6, 7)]


def test_a_child_that_logs_first_does_not_move_it_either(tmp_path):
    with opened(tmp_path) as log:
        child = multiprocessing.get_context("fork").Process(target=log.log_metrics, args=({"loaded": 1.0}, 50))
        child.start()
        child.join()
        assert log.state_dict()["step"] == 50, "nobody else has said one"
        log.log_batch_progress(1, 1, 100, 1.0)
        state = log.state_dict()
    assert (state["step"], state["max_step"]) == (1, 1)


def test_with_another_batch_size_no_row_before_the_state_disappears(tmp_path):
    log = opened(tmp_path)
    for epoch in (1, 2):
        for batch in range(1, 101):
            log.log_batch_progress(epoch, batch, 100, 1.0)
    state = log.state_dict()
    log.close()
    log = opened(tmp_path)
    log.load_state_dict(state)
    for batch in range(1, 51):
        log.log_batch_progress(3, batch, 50, 1.0)
    log.close()
    assert read_run(tmp_path, "run").metrics.num_rows == 250


def test_a_state_before_the_first_record_leaves_nothing_of_its_attempt(tmp_path):
    log = opened(tmp_path)
    state = log.state_dict()
    assert (state["seq"], state["step"]) == (0, None)
    train([log], 1, 9)
    for steps in ((2, 4, 6), (5, 7)):
        log = opened(tmp_path)
        log.load_state_dict(state)
        for step in steps:
            log.log_metrics({"loss": 1.0}, step=step)
        state = log.state_dict()
        log.close()
    assert steps_by_rank(read_run(tmp_path, "run")) == {0: [(2, 2), (2, 4), (2, 6), (3, 5), (3, 7)]}


@pytest.mark.parametrize("without", [LATER_KEYS, ("seq",), ("rank",)])
def test_a_state_of_yesterday_cuts_by_step_and_time(tmp_path, without):
    states = train(ranks_of(tmp_path, 2), 1, 10, keep_at=6)
    old = [{name: value for name, value in state.items() if name not in without} for state in states]
    train(ranks_of(tmp_path, 2, old), 7, 9)
    wanted = [*series(1, 1, 6), *series(2, 7, 9)]
    assert steps_by_rank(read_run(tmp_path, "run")) == {0: wanted, 1: wanted}
    assert "names no record" in (tmp_path / "run_main.log").read_text()


OTHER = {"run_id": "0" * 32, "step": 700}


@pytest.mark.parametrize(
    ("order", "cut", "shown"),
    [
        ((4, 9), 9, [*range(10), *range(10, 20)]),  # the best checkpoint first, then the last one
        ((9, 4), 4, [*range(5), *range(10, 20)]),
        (("other", 9), 9, [*range(10), *range(10, 20)]),  # fine-tuned from another run, and then resumed
        ((9, "other"), 700, [*range(10, 20)]),
    ],
)
def test_the_last_state_before_the_first_record_counts(tmp_path, order, cut, shown):
    log = opened(tmp_path)
    saved = {"other": {**log.state_dict(), **OTHER}}
    for step in range(15):
        log.log_batch_progress(1, step, 20, 1.0)
        saved[step] = log.state_dict()
    log.close()
    log = opened(tmp_path)
    for which in order:
        log.load_state_dict(saved[which])
    for step in range(10, 20):
        log.log_batch_progress(1, step, 20, 2.0)
    log.load_state_dict(saved[2])  # too late: the rows after it are there
    log.close()
    run = read_run(tmp_path, "run")
    assert run.summary["resumed_from"]["step"] == cut
    assert run.metrics["step"].to_pylist() == shown
    told = [json.loads(row["fields"]) for row in run.events.to_pylist() if row["event"] == "resumed"]
    assert [event["kept"] for event in told] == [True, True, False]
    assert "after its first record" in (tmp_path / "run_main.log").read_text()
    if cut == 700:
        assert "resumed from another run" in (tmp_path / "run_main.log").read_text()


def test_a_state_of_an_attempt_that_is_not_there_is_said_and_taken(tmp_path):
    log = opened(tmp_path)
    log.load_state_dict({**log.state_dict(), "attempt": 99, "step": 7})
    train([log], 8, 9)
    run = read_run(tmp_path, "run")
    assert steps_by_rank(run) == {0: series(1, 8, 9)}
    assert run.processes["resumed_from_attempt"].to_pylist() == [99]
    assert "attempt 99, of which nothing is in this folder" in (tmp_path / "run_main.log").read_text()


def test_a_validation_is_cut_where_records_are(tmp_path):
    log = opened(tmp_path)
    for step in range(1, 11):
        log.log_batch_progress(1, step, 100, 1.0)
        if step % 2 == 0:
            log.log_validation(metrics={"accuracy": step / 10})
        if step == 6:
            state = log.state_dict()
    log.close()
    log = opened(tmp_path)
    log.load_state_dict(state)
    for step in range(7, 9):
        log.log_batch_progress(1, step, 100, 1.0)
    log.log_validation(metrics={"accuracy": 0.85})
    log.close()
    run = read_run(tmp_path, "run")
    assert run.validation["step"].to_pylist() == [2, 4, 6, 8]
    curve = run.series("accuracy").select(["step", "accuracy"]).to_pydict()
    assert curve == {"step": [2, 4, 6, 8], "accuracy": [0.2, 0.4, 0.6, 0.85]}


def test_the_validations_of_ranks_that_loaded_another_s_state_are_cut_by_step(tmp_path):
    logs = ranks_of(tmp_path, 2)
    for step in range(1, 11):  # one rank runs ahead
        logs[1].log_batch_progress(1, step, 100, 1.0)
        logs[1].log_validation(metrics={"accuracy": step / 10})
    for step in range(1, 7):
        logs[0].log_batch_progress(1, step, 100, 1.0)
    state = logs[0].state_dict()
    for log in logs:
        log.close()
    train(ranks_of(tmp_path, 2, [state, state]), 7, 8)
    assert read_run(tmp_path, "run").validation["step"].to_pylist() == [1, 2, 3, 4, 5, 6]


def test_a_copy_without_the_private_folder_shows_the_same_series(tmp_path):
    states = train(ranks_of(tmp_path / "logs", 2), 1, 10, keep_at=6)
    train(ranks_of(tmp_path / "logs", 2, states), 7, 9)
    whole = read_run(tmp_path / "logs", "run")
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "logs", copy, ignore=shutil.ignore_patterns(".advlog"))
    run = read_run(copy, "run")
    assert run.metrics.equals(whole.metrics)
    assert run.run_id == whole.run_id
    assert run.processes.drop_columns(["started"]).equals(whole.processes.drop_columns(["started"]))


def test_a_copy_of_a_killed_run_says_that_its_end_is_not_known(tmp_path):
    def die():
        log = opened(tmp_path / "logs")
        for step in range(1, 6):
            log.log_batch_progress(1, step, 100, 1.0)
        log.flush()
        os.kill(os.getpid(), 9)

    child = multiprocessing.get_context("fork").Process(target=die)
    child.start()
    child.join()
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "logs", copy, ignore=shutil.ignore_patterns(".advlog"))
    run = read_run(copy, "run")
    overview = run.overview()
    assert (overview["status"], overview["records"], len(overview["attempts"])) == ("unknown", 5, 1)


@pytest.mark.parametrize("first", [False, True])
def test_an_attempt_without_parquet_is_read_from_its_lines_beside_one_that_has_it(tmp_path, first):
    state = None
    for attempt, parquet in ((1, first), (2, not first)):
        log = opened(tmp_path, parquet=parquet)
        log.load_state_dict(state)
        for step in range(5 * attempt - 4, 5 * attempt + 1):
            log.log_batch_progress(1, step, 100, 1.0, late=float(step))
        state = log.state_dict()
        log.close()
    run = read_run(tmp_path, "run")
    assert steps_by_rank(run) == {0: [*series(1, 1, 5), *series(2, 6, 10)]}
    assert run.metrics["late"].to_pylist() == [float(step) for step in range(1, 11)]
    assert run.processes["records"].to_pylist() == [5, 5]


def test_a_rank_without_parquet_counts_beside_one_that_has_it(tmp_path):
    logs = [opened(tmp_path, rank, 2, parquet=rank == 0) for rank in (0, 1)]
    train(logs, 1, 4)
    curve = read_run(tmp_path, "run").series("loss").to_pydict()
    assert (curve["step"], curve["ranks"], curve["of"]) == ([1, 2, 3, 4], [2] * 4, [2] * 4)


def test_a_large_file_of_lines_that_parquet_covers_is_not_parsed(tmp_path):
    log = opened(tmp_path)
    for step in range(1, 2001):
        log.log_batch_progress(1, step, 5000, 1.0)
    log.close()
    lines = tmp_path / "run_metrics.jsonl"
    data = lines.read_bytes()
    middle = len(data) // 2
    lines.write_bytes(data[:middle] + b"{torn\n" + data[middle:])
    assert read_run(tmp_path, "run").metrics.num_rows == 2000
    log = opened(tmp_path, parquet=False)
    log.log_batch_progress(1, 1, 5000, 1.0)
    log.close()
    assert read_run(tmp_path, "run", attempts="all").metrics.num_rows == 2001
    shutil.rmtree(tmp_path / "run_metrics.parquet")
    with pytest.raises(ValueError, match=r"run_metrics\.jsonl\.1, line \d+: expected a JSON object"):
        read_run(tmp_path, "run", attempts="all").attempts  # noqa: B018


def test_an_origin_without_a_step_cuts_by_time(tmp_path):
    state = train(ranks_of(tmp_path, 1), 1, 5, keep_at=5)[0]
    train(ranks_of(tmp_path, 1, [state]), 6, 8)
    (origin,) = (tmp_path / ".advlog").rglob("*-origin.json")
    written = json.loads(origin.read_text())
    origin.write_text(json.dumps({name: written[name] for name in ("run_id", "attempt", "timestamp")}))
    assert len(read_run(tmp_path, "run").metrics) == 8
    assert sum(item.rows.num_rows for item in follow(tmp_path, "run") if item.rows is not None) == 8


def validate(log, epoch, accuracy, is_best=None):
    log.log_batch_progress(epoch, 100, 100, 1.0)
    log.log_validation(epoch, {"accuracy": accuracy}, is_best)


def test_the_best_of_a_resumed_run_is_that_of_all_its_attempts(tmp_path):
    with opened(tmp_path) as log:
        validate(log, 1, 0.8)
        validate(log, 2, 0.9)
        state = json.loads(json.dumps(log.state_dict()))
        validate(log, 3, 0.95)  # superseded
    with opened(tmp_path) as log:
        log.load_state_dict(state)
        validate(log, 3, 0.5)
        assert log.get_training_summary()["best"]["value"] == 0.9
        later = log.state_dict()
    run = read_run(tmp_path, "run")
    best = run.overview()["best"]
    assert (best["value"], best["epoch"], best["step"]) == (0.9, 2, 200)
    assert run.validation["best_so_far"].to_pylist() == [True, True, False]
    with opened(tmp_path) as log:
        log.load_state_dict(later)
        validate(log, 4, 0.92)
    assert read_run(tmp_path, "run").overview()["best"]["value"] == 0.92
    assert read_run(tmp_path, "run").validation["best_so_far"].to_pylist() == [True, True, False, True]


def test_the_best_that_the_program_named_stays_the_best(tmp_path):
    with opened(tmp_path) as log:
        validate(log, 1, 0.9, True)
        state = log.state_dict()
    with opened(tmp_path) as log:
        log.load_state_dict(state)
        validate(log, 2, 0.99, False)
    best = read_run(tmp_path, "run").overview()["best"]
    assert (best["epoch"], best["is_best"], best["metrics"]) == (1, True, {"accuracy": 0.9})


def test_the_best_of_another_run_is_none_of_this_one(tmp_path):
    with opened(tmp_path / "before") as log:
        validate(log, 1, 0.9)
        state = log.state_dict()
    with opened(tmp_path / "after") as log:
        log.load_state_dict(state)
        validate(log, 1, 0.5)
    assert read_run(tmp_path / "after", "run").overview()["best"]["value"] == 0.5


@pytest.mark.parametrize("best", ["", "7", "{}", '{"epoch": 1, "step": 1, "metrics": {"a": 7}, "is_best": true}', 1.5])
def test_a_best_that_no_logger_gave_is_refused(tmp_path, best):
    with opened(tmp_path) as log:
        state = log.state_dict()
        with pytest.raises(ValueError, match="best"):
            log.load_state_dict({**state, "best": best})


def test_a_resumed_epoch_counts_its_batches_from_the_state_on(tmp_path):
    with opened(tmp_path) as log:
        for batch in range(50, 151, 50):
            log.log_batch_progress(1, batch, 400, 1.0)
        state = log.state_dict()
    with opened(tmp_path) as log:
        log.load_state_dict(state)
        log.start_epoch(1)
        for batch in range(200, 401, 50):
            log.log_batch_progress(1, batch, 400, 1.0)
        log.end_epoch(1)
        log.start_epoch(2)
        for batch in range(50, 401, 50):
            log.log_batch_progress(2, batch, 400, 1.0)
        log.end_epoch(2)
        assert [epoch["batches"] for epoch in log.get_training_summary()["epochs"]] == [250, 400]
