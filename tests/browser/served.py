"""A running `advlog ui`, and requests to it."""

from __future__ import annotations

import http.client
import re
import signal
import subprocess
import sys
import time
from pathlib import Path


class Served:
    """A running `advlog ui`."""

    def __init__(self, log_dir: Path, *options: str) -> None:
        command = [sys.executable, "-m", "advlog_fast", "ui", str(log_dir), "--no-browser", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.link = self.process.stdout.readline().split()[-1]
        match = re.fullmatch(r"https?://([\d.]+):(\d+)(.*)/#token=(\S{43})", self.link)
        assert match, self.link
        self.host, self.port, self.token = match[1], int(match[2]), match[4]

    def get(
        self, path: str, *, method: str = "GET", token: str | None = "", **headers: str
    ) -> tuple[int, bytes, dict[str, str]]:
        """A request; the right token unless another one, or None, is given."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=30)
        sent = {"Host": f"127.0.0.1:{self.port}"}
        if token is not None:
            sent["Authorization"] = f"Bearer {token or self.token}"
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        deadline = time.monotonic() + 20
        while True:
            try:
                connection.request(method, path, headers=sent)
                break
            except ConnectionRefusedError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, body, {name.lower(): value for name, value in answer.getheaders()}

    def end(self) -> None:
        self.process.send_signal(signal.SIGINT)
        _, self.said = self.process.communicate(timeout=20)
