"""Adapters for frameworks that log by themselves: `lightning`, `transformers`, `accelerate`, `ray`; and the calls of
TensorBoard's writer and of W&B under their names: `tensorboard`, `wandb_style`.

Never imported by the rest of the package. A missing framework raises an error that names the extra. Nothing in here may
end or slow a training: a fault is an entry in the errors log and a count in `health()`. Read first: `base`.
"""
