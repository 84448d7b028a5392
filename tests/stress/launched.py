"""One process of a launch, as its variables say: logs some records, and ends. The program of test_torchrun.py."""

import sys

from advlog_fast import AdvancedLogger


def main() -> None:
    log_dir, records = sys.argv[1], int(sys.argv[2])
    with AdvancedLogger(log_dir, "run", console="off") as log:
        log.start_training({"records": records})
        for batch in range(1, records + 1):
            log.log_batch_progress(1, batch, records, 1.0 / batch)
        log.end_training()
    assert "torch" not in sys.modules


if __name__ == "__main__":
    main()
