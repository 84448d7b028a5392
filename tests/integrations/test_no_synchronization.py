"""No integration waits for a loss: proved by tensors that raise where the package would ask for their values."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lightning.pytorch")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from integrations import test_accelerate, test_lightning, test_transformers
from integrations.watched import Copies, Watched, waits

from advlog_fast import read_run
from advlog_fast.engine.deferred import Deferral

pytestmark = test_lightning.pytestmark


@pytest.fixture(autouse=True)
def device(monkeypatch):
    monkeypatch.setattr(Deferral, "queue_type", Copies)
    waits.clear()
    yield
    assert waits == []


def check(log, folder, returned):
    health = log.health()
    assert health.hook_faults == {}
    assert health.misuse == {}
    assert health.gpu_values["operators"] >= len(returned)
    assert not any(health.unresolved.values())
    log.close()
    rows = [row for row in read_run(folder, "run").metrics.to_pylist() if row["batch_time"] is not None]
    assert [row["loss"] for row in rows] == pytest.approx(returned, rel=1e-6)


def test_what_is_watched_says_so_where_the_package_asks(tmp_path):
    from advlog_fast import AdvancedLogger

    with AdvancedLogger(tmp_path, "run", console="off") as log:
        log.log_hyperparameters({"value": torch.tensor(1.0).as_subclass(Watched)})
    assert waits != []
    waits.clear()


def test_no_loss_of_lightning_is_waited_for(tmp_path):
    class OnGpu(test_lightning.Model):
        def loss(self, batch):
            return super().loss(batch).as_subclass(Watched)

    pl = test_lightning.pl
    callback, model = test_lightning.AdvlogCallback(tmp_path, "run"), OnGpu()
    options = {**test_lightning.QUIET, "default_root_dir": tmp_path, "logger": False, "accumulate_grad_batches": 2}
    options["enable_checkpointing"] = False
    pl.Trainer(max_epochs=2, callbacks=[callback], **options).fit(model, test_lightning.data())
    check(callback.run.log, tmp_path, model.returned)


def test_no_loss_of_transformers_is_waited_for(tmp_path):
    returned = []

    class OnGpu(test_transformers.Trainer):
        def training_step(self, *args, **kwargs):
            loss = super().training_step(*args, **kwargs)
            returned.append(float(loss))
            return loss.as_subclass(Watched)

    callback = test_transformers.AdvlogCallback(tmp_path, "run")
    arguments = test_transformers.arguments(tmp_path, max_steps=6, gradient_accumulation_steps=2)
    data = test_transformers.Tokens(64)
    OnGpu(test_transformers.model(), arguments, train_dataset=data, callbacks=[callback]).train()
    check(callback.run.log, tmp_path, [one + two for one, two in zip(returned[::2], returned[1::2], strict=True)])


def test_no_loss_of_accelerate_is_waited_for(tmp_path):
    accelerator = test_accelerate.Accelerator(cpu=True, project_dir=tmp_path, gradient_accumulation_steps=2)
    log = test_accelerate.open_on_all_ranks(accelerator, "run", tmp_path)
    model, optimizer, data = accelerator.prepare(*test_accelerate.parts())
    returned = []
    for x, y in data:
        with accelerator.accumulate(model):
            loss = ((model(x) - y) ** 2).mean().as_subclass(Watched)
            returned.append(float(loss))
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
    check(log, tmp_path, [(one + two) / 2 for one, two in zip(returned[::2], returned[1::2], strict=True)])
    for state in (test_accelerate.AcceleratorState, test_accelerate.GradientState, test_accelerate.PartialState):
        state._reset_state()
