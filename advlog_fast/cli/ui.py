"""`advlog ui DIR...`: pages that show runs, live, in a browser on this machine."""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import os
import secrets
import socket
import stat
import sys
import tempfile
import webbrowser
from collections.abc import Iterator
from pathlib import Path

from ..store.paths import local_path
from .table import say

HELP = "show runs in a browser, live: needs advlog-fast[ui]"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("log_dirs", metavar="DIR", nargs="+", help="a directory of runs, or one above such ones")
    parser.add_argument("--port", type=_port, default=6016, help="the port (6016; 0 takes a free one)")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen at (127.0.0.1)")
    parser.add_argument("--socket", metavar="PATH", help="listen at a socket that only you can open, and at no port")
    parser.add_argument("--root-path", default="", metavar="PATH", help="where a proxy has put it, such as /proxy/6016")
    parser.add_argument(
        "--allow-host", metavar="HOST[:PORT]", nargs="+", default=[], help="other names that a proxy calls it by"
    )
    parser.add_argument("--tls-cert", metavar="FILE", help="a certificate, for an address that others reach")
    parser.add_argument("--tls-key", metavar="FILE", help="its key")
    parser.add_argument("--insecure", action="store_true", help="allow such an address without a certificate")
    parser.add_argument("--no-browser", action="store_true", help="open no browser")


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65_535:
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, got {text}")
    return port


def run(args: argparse.Namespace) -> int:
    """Return 0: ended by the user; 1: it cannot listen; 2: a package is missing, or an argument is wrong."""
    try:
        import uvicorn

        from ..views.server import application
    except ModuleNotFoundError as error:
        say(f"advlog ui: needs {error.name}: pip install 'advlog-fast[ui]'", sys.stderr)
        return 2
    from ..views.gallery import Gallery

    if problem := _problem(args):
        say(f"advlog ui: {problem}", sys.stderr)
        return 2
    try:
        listening = _listening(args)
    except OSError as error:
        say(f"advlog ui: cannot listen: {error}", sys.stderr)
        return 1
    token = secrets.token_urlsafe(32)
    hosts, address = _names(args, listening)
    gallery = Gallery([Path(os.path.abspath(local_path("DIR", each))) for each in args.log_dirs])
    config = uvicorn.Config(
        application(gallery, token, hosts),
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=1,
        root_path=args.root_path.rstrip("/"),
        ssl_certfile=args.tls_cert,
        ssl_keyfile=args.tls_key,
    )
    link = f"{address}{args.root_path.rstrip('/')}/#token={token}"
    with contextlib.suppress(OSError, AttributeError):
        os.nice(10)  # a training on this machine comes first
    say(f"advlog ui: {link}")
    if args.socket:
        say(f"from elsewhere: ssh -L 6016:{os.path.abspath(args.socket)} {socket.gethostname()}, then this link")
    elif _is_loopback(args.host):
        port = listening.getsockname()[1]
        say(f"from elsewhere: ssh -L {port}:127.0.0.1:{port} {socket.gethostname()}, then this link")
    sys.stdout.flush()
    with _opened(link, wanted=not args.no_browser and not args.socket):
        uvicorn.Server(config).run(sockets=[listening])
    return 0


def _problem(args: argparse.Namespace) -> str | None:
    for log_dir in args.log_dirs:
        if not Path(local_path("DIR", log_dir)).is_dir():
            return f"DIR: expected a directory, got {log_dir!r}"
    if (args.tls_cert is None) != (args.tls_key is None):
        return "--tls-cert and --tls-key: expected both or neither"
    if not args.socket and not _is_loopback(args.host) and not args.tls_cert and not args.insecure:
        return (
            f"--host {args.host}: others reach it, and could read along; give --tls-cert and --tls-key, or --insecure, "
            "or leave it at 127.0.0.1 and use `ssh -L`"
        )
    return None


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listening(args: argparse.Namespace) -> socket.socket:
    """:raises OSError: the address is taken, or none of this machine."""
    if args.socket:
        _remove_dead(args.socket)
        found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            found.bind(args.socket)
        finally:
            os.umask(before)
    else:
        family = socket.AF_INET6 if ":" in args.host else socket.AF_INET
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((args.host, args.port))
    found.listen(64)
    return found


def _remove_dead(path: str) -> None:
    """Removes a socket of this user's at which nobody listens any more."""
    with contextlib.suppress(FileNotFoundError):
        status = os.lstat(path)
        if not stat.S_ISSOCK(status.st_mode) or status.st_uid != os.getuid():
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
            try:
                asking.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)


def _names(args: argparse.Namespace, listening: socket.socket) -> tuple[list[str], str]:
    """What requests may call the server, and the address of its link."""
    scheme = "https" if args.tls_cert else "http"
    if args.socket:
        return [
            *args.allow_host,
            "localhost",
            "127.0.0.1",
            "localhost:6016",
            "127.0.0.1:6016",
        ], f"{scheme}://127.0.0.1:6016"
    port = listening.getsockname()[1]
    host = f"[{args.host}]" if ":" in args.host else args.host
    names = [f"{name}:{port}" for name in {host, "localhost", "127.0.0.1", "[::1]"}]
    if not _is_loopback(args.host):
        names += [f"{socket.gethostname()}:{port}", f"{socket.getfqdn()}:{port}"]
    if port == (443 if args.tls_cert else 80):  # browsers leave it out
        names += [name.rpartition(":")[0] for name in names]
    return [*names, *args.allow_host], f"{scheme}://{host}:{port}"


@contextlib.contextmanager
def _opened(link: str, *, wanted: bool) -> Iterator[None]:
    """Opens a browser at the link, by a file that only this user can read: others see the arguments of a process."""
    if not wanted or not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") or sys.platform == "darwin"):
        yield
        return
    with tempfile.TemporaryDirectory(prefix="advlog-") as folder:
        page = Path(folder, "open.html")
        page.touch(0o600)
        page.write_text(f'<!doctype html><meta http-equiv="refresh" content="0;url={link}">')
        webbrowser.open(page.as_uri())
        yield
