"""A training whose wall clock is set in the middle: `python clock_program.py DIR SECONDS how`."""

import mmap
import os
import sys
import time

from advlog_fast import AdvancedLogger

folder, seconds, how = sys.argv[1], int(sys.argv[2]), sys.argv[3]
clock = os.open(os.environ["CLOCK_FILE"], os.O_RDWR)
moved = mmap.mmap(clock, 8)

with AdvancedLogger(folder, "run", console="off", memory_interval_s=0) as log:
    log.start_epoch(1)
    for batch in range(1, 101):
        if batch == 50:
            moved[:8] = seconds.to_bytes(8, "little", signed=True)
        if how == "paced":
            time.sleep(0.01)
        log.log_batch_progress(1, batch, 100, 0.5, samples=10)
    log.end_epoch(1)
