"""TRL's trainers are Hugging Face's: the same callback has their raw losses."""

from __future__ import annotations

import pytest

pytest.importorskip("trl")

from integrations import test_transformers
from transformers import PreTrainedTokenizerFast

from advlog_fast import read_run
from advlog_fast.integrations.transformers import AdvlogCallback

pytestmark = [pytest.mark.filterwarnings("ignore")]


def test_sft_has_a_raw_loss_for_each_step(tmp_path):
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from trl import SFTConfig, SFTTrainer

    words = {"<pad>": 0, "<eos>": 1, **{f"w{at}": at + 2 for at in range(40)}}
    raw = Tokenizer(models.WordLevel(words, "<pad>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="<eos>")  # noqa: S106
    texts = [" ".join(f"w{(at + i) % 40}" for i in range(8)) for at in range(32)]
    callback, reported = AdvlogCallback(tmp_path, "run"), test_transformers.Reported()
    trainer = SFTTrainer(
        test_transformers.model(),
        args=SFTConfig(
            output_dir=str(tmp_path / "out"), max_steps=4, per_device_train_batch_size=2, logging_steps=1, use_cpu=True,
            report_to="none", save_strategy="no", max_length=16, bf16=False, gradient_checkpointing=False,
        ),
        train_dataset=Dataset.from_dict({"text": texts}),
        processing_class=tokenizer,
        callbacks=[callback, reported],
    )  # fmt: skip
    trainer.train()
    callback.run.close()
    rows = [row for row in read_run(tmp_path, "run").metrics.to_pylist() if row["batch"] is not None]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert [row["loss"] for row in rows] == pytest.approx(reported.series("loss"), rel=1e-4)
