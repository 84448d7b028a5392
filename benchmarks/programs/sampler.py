"""What the memory sampler takes of a core at one sample a second.

sampler.py SECONDS
"""

from __future__ import annotations

import sys
import time

from workload import report

from advlog_fast.sampling.memory_sampler import MemorySampler


def main(seconds: float) -> None:
    sampler = MemorySampler(1.0, lambda sample: sample.metrics())
    sampler.start()
    time.sleep(3.5)  # imports and first answers
    samples, cpu_s, began = sampler.trend()["samples"], sampler.cpu_s, time.monotonic()
    time.sleep(seconds)
    wall_s = time.monotonic() - began
    used_s, taken = sampler.cpu_s - cpu_s, sampler.trend()["samples"] - samples
    sampler.stop(5.0)
    report(share_of_a_core=used_s / wall_s, cpu_us_a_sample=used_s / taken * 1e6, samples=taken)


if __name__ == "__main__":
    main(float(sys.argv[1]))
