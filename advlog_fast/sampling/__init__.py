"""Samples of memory: of the process, of torch's allocator, of the GPU's driver, and whether it keeps growing.

Never calls CUDA, and never makes the training wait for a probe. Door: `memory_sampler.MemorySampler`. Read first:
`memory_sampler`.
"""
