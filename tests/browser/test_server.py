"""Who may look: real requests to a real server, as other users, other sites and other programs send them."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="needs starlette, which `make test-ui` installs")
pytest.importorskip("uvicorn", reason="needs uvicorn, which `make test-ui` installs")

from advlog_fast import AdvancedLogger

from .served import Served


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ui")
    for name in ("run", "other"):
        with AdvancedLogger(folder / "logs", name, console="off", memory_interval_s=0) as log:
            log.start_training({"lr": 0.1 if name == "run" else 0.2})
            for step in range(1, 201):
                log.log_batch_progress(1, step, 200, 50.0 if step == 77 else 1.0 + step / 1e4)
            log.log_error(ValueError("a bad label"), "loading")
    (folder / "secret").write_text("the secret")
    return folder / "logs"


@pytest.fixture(scope="module")
def served(logs: Path) -> Iterator[Served]:
    found = Served(logs, "--port", "0")
    yield found
    found.end()


API = (
    "/api/runs",
    "/api/runs/0/run/page",
    "/api/runs/0/run/log",
    "/api/runs/0/run/live",
    "/api/compare?run=0/run&run=0/other",
)


@pytest.mark.parametrize("path", API)
def test_without_the_right_token_nothing_of_a_run_is_shown(served: Served, path: str):
    for token in (None, "x" * 43, served.token[:-1], served.token + "x"):
        status, body, _ = served.get(path, token=token)
        assert status == 401
        assert b"run" not in body
    assert served.get(path, token=None, Cookie=f"token={served.token}")[0] == 401
    query = "&" if "?" in path else "?"
    assert served.get(f"{path}{query}token={served.token}", token=None)[0] == 401


def test_the_shell_is_public_and_holds_nothing_of_a_run(served: Served):
    for path in ("/", "/static/page.js", "/static/ui.js", "/static/page.css", "/static/uPlot.iife.min.js"):
        status, body, headers = served.get(path, token=None)
        assert status == 200
        assert served.token.encode() not in body
        assert b"0.0044" not in body
        assert "set-cookie" not in headers
        assert "access-control-allow-origin" not in headers
        policy = headers["content-security-policy"]
        for part in ("default-src 'none'", "form-action 'none'", "base-uri 'none'", "frame-ancestors 'none'"):
            assert part in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "localhost.evil:{port}", ""]
)
def test_another_name_that_points_here_is_refused(served: Served, host: str):
    status, body, _ = served.get("/api/runs", Host=host.format(port=served.port))
    assert status in (400, 403)
    assert b"run" not in body
    assert served.get("/", Host=host.format(port=served.port))[0] in (400, 403)


def test_localhost_is_a_name_of_it(served: Served):
    assert served.get("/api/runs", Host=f"localhost:{served.port}")[0] == 200


def test_what_another_site_asks_for_is_refused_but_for_a_link_to_the_shell(served: Served):
    for site in ("cross-site", "same-site"):
        asked = {"Sec_Fetch_Site": site, "Sec_Fetch_Mode": "cors"}
        for path in (*API, "/static/ui.js", "/"):
            assert served.get(path, **asked)[0] == 403
        assert served.get("/api/runs", Sec_Fetch_Site=site, Sec_Fetch_Mode="navigate")[0] == 403
        assert served.get("/", token=None, Sec_Fetch_Site=site, Sec_Fetch_Mode="navigate")[0] == 200
    assert served.get("/api/runs", Sec_Fetch_Site="same-origin", Sec_Fetch_Mode="cors")[0] == 200
    preflight = served.get("/api/runs", method="OPTIONS", token=None, Origin="http://evil.example")
    assert preflight[0] in (401, 405)
    assert "access-control-allow-origin" not in preflight[2]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "TRACE"])
def test_nothing_but_reading_is_answered(served: Served, method: str):
    for path in ("/", *API):
        assert served.get(path, method=method)[0] == 405


@pytest.mark.parametrize(
    "path",
    [
        "/static/../facts.py", "/static/..%2ffacts.py", "/static/%2e%2e%2fserver.py", "/static//etc/passwd",
        "/api/runs/0/..%2f..%2fsecret/log", "/api/runs/0/..%2fsecret/page", "/api/runs/0/%2fetc%2fpasswd/page",
        "/api/runs/9/run/page", "/api/runs/0/none/page", "/api/runs/-1/run/page", "/api/runs/0/run%00/page",
        "/api/runs/0/run/log?file=../../secret", "/api/runs/0/run/log?file=summary", "/api/runs/0/run/log?rank=-1",
        "/api/runs/0/run/log?rank=../../0", "/..%2f..%2fetc/passwd",
    ],
)  # fmt: skip
def test_tricks_with_paths_find_nothing(served: Served, path: str):
    status, body, _ = served.get(path)
    assert status in (400, 403, 404)
    assert b"the secret" not in body
    assert b"root:" not in body


def test_a_log_that_is_a_link_is_not_read(logs: Path, tmp_path: Path):
    folder = tmp_path / "logs"
    with AdvancedLogger(folder, "run", console="off", memory_interval_s=0) as log:
        log.log_batch_progress(1, 1, 1, 0.5)
    (folder / "run_main.log").unlink()
    (folder / "run_main.log").symlink_to(logs.parent / "secret")
    served = Served(folder, "--port", "0")
    try:
        status, body, _ = served.get("/api/runs/0/run/log?file=main")
        assert status == 500
        assert b"the secret" not in body
        (folder / "run_main.log").unlink()
        (folder / "run_summary.json").unlink()
        os.mkfifo(folder / "run_summary.json")
        for _ in range(3):  # more than are computed at a time
            assert served.get("/api/runs/0/run/page")[0] == 500
        assert served.get("/api/runs")[0] == 200
    finally:
        served.end()


def unpacked(body: bytes) -> dict:
    (length,) = struct.unpack("<I", body[:4])
    found: dict = json.loads(body[4 : 4 + length])
    return found


@pytest.mark.parametrize(
    "summary",
    [
        '{"config":' + '{"a":' * 90_000 + "1" + "}" * 90_000 + "}",
        '{"config": {"a": "\\ud800"}}',
        '{"overhead": "x", "last": [1], "performance": "x", "metrics": 3}',
        '{"overhead": [1], "metrics": {"loss": 1}}',
        "[" * 100_000,
    ],
)
def test_a_broken_run_hides_no_other(tmp_path: Path, summary: str):
    for name in ("good", "broken"):
        with AdvancedLogger(tmp_path, name, console="off", memory_interval_s=0) as log:
            log.log_batch_progress(1, 1, 1, 0.5)
    (tmp_path / "broken_summary.json").write_text(summary)
    served = Served(tmp_path, "--port", "0")
    try:
        status, body, _ = served.get("/api/runs")
        assert status == 200
        assert "good" in {row["name"] for row in json.loads(body)["runs"]}
        assert served.get("/api/runs/0/good/page")[0] == 200
        status, body, _ = served.get("/api/runs/0/broken/page")
        assert status in (200, 400, 500)
        assert b"Traceback" not in body
        assert str(tmp_path).encode() not in body
    finally:
        served.end()
    assert served.said == ""


def test_connections_that_say_nothing_shut_nobody_out(served: Served):
    silent = [socket.create_connection((served.host, served.port)) for _ in range(70)]
    try:
        assert served.get("/api/runs")[0] == 200
    finally:
        for each in silent:
            each.close()


def test_it_answers_with_what_the_readers_tell(served: Served):
    runs = json.loads(served.get("/api/runs")[1])["runs"]
    assert {(row["name"], row["config"]["lr"], row["status"]) for row in runs} == {
        ("run", "0.1", "completed"), ("other", "0.2", "completed"),
    }  # fmt: skip
    page = unpacked(served.get("/api/runs/0/run/page")[1])
    assert [chart["metric"] for chart in page["charts"]] == ["loss"]
    near = unpacked(served.get("/api/runs/0/run/pictures?metric=loss&from=70&to=80&width=750")[1])
    assert near["charts"][0]["shift"] == 0
    rows = json.loads(served.get("/api/runs/0/run/rows?metric=loss&from=76&to=78")[1])["rows"]
    assert [(row["x0"], row["max"]) for row in rows] == [(76, 1.0076), (77, 50.0), (78, 1.0078)]
    text = served.get("/api/runs/0/run/rows?metric=loss&from=77&to=77&format=csv")[1].decode()
    assert text.splitlines()[1].startswith("0,77,77,50.0,50.0,50.0,1")
    found = json.loads(served.get("/api/runs/0/run/log?file=errors&q=BAD%20label")[1])
    assert any("a bad label" in line for line in found["lines"])
    assert json.loads(served.get("/api/runs/0/run/log?file=main&q=nowhere")[1])["lines"] == []
    both = unpacked(served.get("/api/compare?run=0/run&run=0/other")[1])
    assert (both["metric"], len(both["charts"]), both["first"]) == ("loss", 2, None)
    status, report, headers = served.get("/api/runs/0/run/report")
    assert status == 200
    assert b"uPlot" in report
    assert headers["content-disposition"] == 'attachment; filename="run.html"'


@pytest.mark.parametrize(
    "path",
    ["pictures", "pictures?metric=los", "pictures?metric=loss&width=0", "pictures?metric=loss&from=a&to=b",
     "pictures?metric=loss&from=5", "rows?metric=loss&from=9&to=3", "rows?metric=loss&from=1e999&to=3",
     "pictures?" + "&".join(["metric=loss"] * 65)],
)  # fmt: skip
def test_a_wrong_question_says_what_is_right(served: Served, path: str):
    status, body, _ = served.get(f"/api/runs/0/run/{path}")
    assert status == 400
    assert b"expected" in body


def test_a_line_comes_when_a_live_run_goes_on(tmp_path: Path):
    with AdvancedLogger(tmp_path, "run", console="off", memory_interval_s=0) as log:
        log.log_batch_progress(1, 1, 2, 0.5)
        assert log.flush()
        served = Served(tmp_path, "--port", "0")
        try:
            assert served.get("/api/runs")[0] == 200
            connection = http.client.HTTPConnection(served.host, served.port, timeout=20)
            headers = {"Host": f"127.0.0.1:{served.port}", "Authorization": f"Bearer {served.token}"}
            connection.request("GET", "/api/runs/0/run/live", headers=headers)
            lines = connection.getresponse()
            first = json.loads(lines.readline())["version"]
            log.log_batch_progress(1, 2, 2, 0.25)
            assert log.flush()
            began = time.monotonic()
            while not (line := lines.readline().strip()):
                pass
            assert json.loads(line)["version"] != first
            assert time.monotonic() - began < 10
            connection.close()
        finally:
            served.end()


def test_only_this_machine_reaches_it(served: Served):
    listening = subprocess.run(["cat", f"/proc/{served.process.pid}/net/tcp"], capture_output=True, text=True).stdout
    ports = [line.split()[1] for line in listening.splitlines()[1:] if line.split()[3] == "0A"]
    mine = [address for address in ports if address.endswith(f":{served.port:04X}")]
    assert mine == [f"0100007F:{served.port:04X}"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--host", "0.0.0.0"], "others reach it"),  # noqa: S104 - that is the test
        (["--tls-cert", "x"], "both or neither"),
    ],
)
def test_an_address_that_others_reach_needs_a_certificate_or_a_word(logs: Path, options: list[str], said: str):
    command = [sys.executable, "-m", "advlog_fast", "ui", str(logs), "--no-browser", "--port", "0", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert said in done.stderr


def test_a_socket_is_for_its_owner_alone(logs: Path, tmp_path: Path):
    path = tmp_path / "ui.socket"
    command = [sys.executable, "-m", "advlog_fast", "ui", str(logs), "--socket", str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        token = process.stdout.readline().split("=")[-1].strip()
        assert stat.S_IMODE(os.lstat(path).st_mode) == 0o600
        asking = socket.socket(socket.AF_UNIX)
        asking.settimeout(20)
        asking.connect(str(path))
        asking.sendall(
            f"GET /api/runs HTTP/1.1\r\nHost: localhost:6016\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
        )
        assert asking.recv(4096).startswith(b"HTTP/1.1 200")
        asking.close()
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)


def test_a_socket_of_a_living_server_is_not_taken_and_a_dead_ones_is(logs: Path, tmp_path: Path):
    path = tmp_path / "ui.socket"
    command = [sys.executable, "-m", "advlog_fast", "ui", str(logs), "--socket", str(path)]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout is not None
        assert "token" in first.stdout.readline()
        second = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert second.returncode == 1
        assert "cannot listen" in second.stderr
    finally:
        first.kill()
        first.communicate()
    third = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert third.stdout is not None
    assert "token" in third.stdout.readline()
    third.send_signal(signal.SIGINT)
    third.communicate(timeout=20)


def test_without_its_packages_it_says_what_to_install(run_python):
    code = "import sys; sys.modules['uvicorn'] = None; from advlog_fast.cli import main; sys.exit(main(['ui', '.']))"
    done = run_python("-c", code)
    assert done.returncode == 2
    assert "pip install 'advlog-fast[ui]'" in done.stderr
