"""torch.compile beside the logger: outside of a compiled function it breaks no graph; inside, it breaks it there."""

from __future__ import annotations

import pytest

from advlog_fast import AdvancedLogger, read_run

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def log(tmp_path):
    import torch._dynamo

    torch._dynamo.reset()
    with AdvancedLogger(tmp_path, "run", console="off", memory_interval_s=0) as made:
        yield made
    torch._dynamo.reset()


def losses(log):
    log.close()
    return read_run(log.config.log_dir, "run").metrics["loss"].to_pylist()


def test_a_step_that_is_logged_after_it_stays_one_graph(log):
    step = torch.compile(lambda x: (x * x).sum(), backend="eager", fullgraph=True)
    for number in range(1, 4):
        log.log_batch_progress(1, number, 3, step(torch.full((2,), float(number))))
    assert torch._dynamo.utils.counters["graph_break"] == {}
    assert (
        torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2
    )  # the second is of another shape, or value, at most
    assert losses(log) == [2.0, 8.0, 18.0]


def test_a_call_inside_logs_each_time_and_breaks_the_graph(log):
    def step(x):
        loss = (x * x).sum()
        log.log_batch_progress(1, 1, 3, loss)
        return loss * 2

    assert torch._dynamo.explain(step)(torch.ones(2)).graph_break_count == 1
    torch._dynamo.reset()
    compiled = torch.compile(step, backend="eager")
    for number in (2.0, 3.0):
        compiled(torch.full((2,), number))
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(step, backend="eager", fullgraph=True)(torch.ones(2))
    assert losses(log) == [2.0, 8.0, 18.0]
