"""Samples the memory of the process, from the system, torch's allocator and the GPU's driver, and detects steady
growth.

Never calls CUDA, and never makes the training wait for a probe. Door: `memory_sampler.MemorySampler`. Read first:
`memory_sampler`.
"""
