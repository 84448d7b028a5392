"""Lightning's entry point, installed as a package of its own, `advlog_fast_lightning`: Lightning imports it for every
Trainer, so it imports nothing and never raises, whatever state advlog_fast is in."""


def callbacks() -> "list[object]":
    """Returns the callback that logs every batch where the environment has `ADVLOG_DIR`, else none."""
    import os

    if not os.environ.get("ADVLOG_DIR"):
        return []
    try:
        from advlog_fast.integrations.lightning import callbacks

        return callbacks()
    except Exception as error:  # noqa: BLE001 - a Trainer must not fail with it
        import logging

        logging.getLogger("advlog_fast").warning("nothing is logged: %s: %s", type(error).__name__, error)
        return []
