"""Where a run is read: in a folder, or at a URL, whose files are fetched into one."""

from __future__ import annotations

import os
from pathlib import Path

from .._hooks import importing
from ..store.paths import check_run, is_url, local_path


def located(log_dir: str | os.PathLike[str], name: str | None = None) -> tuple[Path, object]:
    """Returns the folder to read the run in, and what must live as long as the folder is read.

    :param name: None for any run.
    :raises RunNotFoundError: there is no such folder or URL, or no such run in it.
    :raises ValueError: no run can have that name, or no mirror that URL.
    :raises OSError: what is at the URL cannot be read.
    """
    if is_url(log_dir):
        with importing():  # a training reads no URL
            from ..mirror import fetched
        view = fetched(log_dir, name)
        return view.folder, view
    directory = local_path("log_dir", log_dir)
    check_run(directory, name)
    return directory, None
