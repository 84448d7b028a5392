"""A writer at full speed: `python follow.py DIR RECORDS`. With `--follow` as a third argument it reads DIR instead, and
prints how late each batch of rows came."""

import json
import sys
import time

from advlog_fast import AdvancedLogger, follow

folder, records = sys.argv[1], int(sys.argv[2])
if len(sys.argv) > 3:
    lags, rows = [], 0
    while rows < records:
        try:
            for item in follow(folder, "run", wait_s=30.0):
                if item.rows is not None:
                    rows += item.rows.num_rows
                    lags.append(time.time() - item.rows["timestamp"][-1].value / 1e6)
                if rows >= records:
                    break
        except FileNotFoundError:
            time.sleep(0.01)
    lags.sort()
    print(json.dumps({"rows": rows, "lag_median_s": lags[len(lags) // 2], "lag_max_s": lags[-1]}))
else:
    with AdvancedLogger(
        folder, "run", console="off", memory_interval_s=0, overflow_timeout_s=None, close_timeout_s=300
    ) as log:
        began = time.perf_counter()
        for step in range(records):
            log.log_batch_progress(1, step, records, 0.5, 0.25, 1e-3)
        took = time.perf_counter() - began
    print(json.dumps({"loop_s": took, "records_per_s": records / took}))
