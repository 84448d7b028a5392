"""Serves the pages of runs to one person: everything but the empty shell needs the token.

Who may look: a request must name a host that is expected here (another site's name that points here is refused), come
from this page and not from another site, and carry the token in its `Authorization`; there is no cookie, since cookies
know no ports. What a run says travels as JSON and numbers, never as markup.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import anyio.to_thread
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ..exceptions import RunNotFoundError
from ..pictures.levels import MOST_WIDTH
from ..reader import Run, compare
from ..reader.comparing import first_difference
from .facts import page_of
from .gallery import Gallery
from .logs import log_lines
from .report import page as report_page
from .report import plain
from .wire import Planes, picture_planes

STATIC = Path(__file__).parent / "static"
FILES = {
    "page.js": "text/javascript",
    "ui.js": "text/javascript",
    "page.css": "text/css",
    "uPlot.iife.min.js": "text/javascript",
    "uPlot.min.css": "text/css",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]
_COMPUTING = 2
"""Requests that read a run at a time; the others wait."""
_MOST_METRICS = 64
_WIDEST_OF_RANKS = 1000
_MOST_ROWS = 10_000
_MOST_RUNS = 40
_LOOK_S = 0.5
_SHOWN_AT_ONCE = 2000


class Guard:
    """Lets in what this person's own page asks for.

    :param token: what `Authorization: Bearer` must say.
    :param hosts: names that requests may call this server by, with their port.
    """

    def __init__(self, app: ASGIApp, token: str, hosts: Sequence[str]) -> None:
        self._app, self._hosts = app, {host.lower() for host in hosts}
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                own = {name for name, _ in message["headers"]}
                added = [(name, value) for name, value in _HEADERS if name not in own]
                message = {**message, "headers": [*message["headers"], *added]}
            await send(message)

        refused = self._refused(Request(scope))
        await (refused or self._app)(scope, receive, sending)

    def _refused(self, request: Request) -> Response | None:
        if request.headers.get("host", "").lower() not in self._hosts:
            return PlainTextResponse("this host is not served here; --allow-host names others", 403)
        path = request.scope["path"].removeprefix(request.scope.get("root_path", "") or "\0")
        is_shell = path in ("/", "")
        site, mode = request.headers.get("sec-fetch-site", "none"), request.headers.get("sec-fetch-mode", "navigate")
        if site in ("cross-site", "same-site") and not (is_shell and mode == "navigate"):
            return PlainTextResponse("asked for by another site", 403)
        if is_shell or path.startswith("/static/"):
            return None
        given = request.headers.get("authorization", "").encode("utf-8", "replace")
        if not hmac.compare_digest(given, self._expected):
            return PlainTextResponse("the token is missing or wrong", 401, {"www-authenticate": "Bearer"})
        return None


def application(gallery: Gallery, token: str, hosts: Sequence[str]) -> ASGIApp:
    """Returns the server's application."""
    pages = _Pages(gallery)
    run = "/api/runs/{folder}/{name}"
    routes = [
        Route("/", _shell),
        Route("/static/{name}", _static),
        Route("/api/runs", pages.answer(pages.runs)),
        Route("/api/compare", pages.answer(pages.compare)),
        Route(f"{run}/page", pages.answer(pages.page)),
        Route(f"{run}/pictures", pages.answer(pages.pictures)),
        Route(f"{run}/rows", pages.answer(pages.rows)),
        Route(f"{run}/log", pages.answer(pages.log)),
        Route(f"{run}/report", pages.answer(pages.report)),
        Route(f"{run}/live", pages.live),
    ]
    return Guard(Starlette(routes=routes), token, hosts)


async def _shell(request: Request) -> Response:  # noqa: ARG001 - the interface of a route
    return Response((STATIC / "shell.html").read_bytes(), media_type="text/html; charset=utf-8")


async def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in FILES:
        return PlainTextResponse("no such file", 404)
    folder = STATIC / "vendor" if name.startswith("uPlot") else STATIC
    return Response((folder / name).read_bytes(), media_type=FILES[name], headers={"cache-control": "no-cache"})


class _Pages:
    """The answers, each computed in a thread."""

    def __init__(self, gallery: Gallery) -> None:
        self._gallery = gallery
        self._limit: anyio.CapacityLimiter | None = None

    def answer(self, compute: Callable[[Request], Response]) -> Callable[[Request], Awaitable[Response]]:
        """Returns a route that computes its answer aside, two at a time."""

        async def route(request: Request) -> Response:
            if self._limit is None:
                self._limit = anyio.CapacityLimiter(_COMPUTING)
            try:
                return await anyio.to_thread.run_sync(compute, request, limiter=self._limit)
            except RunNotFoundError:
                return PlainTextResponse("no such run", 404)
            except ValueError as error:
                return PlainTextResponse(str(error), 400)
            except Exception as error:  # noqa: BLE001 - a run's files may say anything; their words are not passed on
                why = getattr(error, "strerror", None) or type(error).__name__  # and no path of this machine
                return PlainTextResponse(f"this run cannot be shown: {why}", 500)

        return route

    def _run(self, request: Request) -> Run:
        return self._gallery.run(*_key(request))

    def runs(self, request: Request) -> Response:  # noqa: ARG002 - the interface of an answer
        """The table of runs."""
        return _Json({"runs": [_listed(row) for row in self._gallery.rows()]})

    def page(self, request: Request) -> Response:
        """A run: what its page shows."""
        planes = Planes()
        run = self._run(request)
        names = run.metric_names()
        facts = page_of(run, planes, metrics=names[:_SHOWN_AT_ONCE], details=False)
        return _packed(facts, planes)

    def pictures(self, request: Request) -> Response:
        """Some metrics over a span, as near as it can be."""
        asked = request.query_params
        metrics = asked.getlist("metric")
        ranks = asked.get("ranks", "band")
        width = _number(asked, "width", 750)
        most = _MOST_METRICS if ranks == "band" else _MOST_METRICS // 4
        if not 1 <= len(metrics) <= most:
            raise ValueError(f"metric: expected 1 to {most}, got {len(metrics)}")
        if ranks != "band" and width > _WIDEST_OF_RANKS:
            raise ValueError(f"width: expected at most {_WIDEST_OF_RANKS} for each rank, got {width}")
        pictures = self._run(request).pictures(
            metrics,
            span=(_number(asked, "from"), _number(asked, "to")) if "from" in asked else None,
            width=width,
            ranks="each" if ranks == "each" else "band",
        )
        planes = Planes()
        charts = [
            {"metric": each.metric, "shift": each.shift, "series": picture_planes(each, planes)} for each in pictures
        ]
        return _packed({"charts": charts}, planes)

    def rows(self, request: Request) -> Response:
        """A metric over a span with every digit, as CSV or JSON."""
        asked = request.query_params
        low, high = _number(asked, "from"), _number(asked, "to")
        picture = self._run(request).picture(
            asked.get("metric", "loss"), span=(low, high), width=MOST_WIDTH, ranks="each"
        )
        table = picture.table.slice(0, _MOST_ROWS)
        if asked.get("format") == "csv":
            text = "\n".join(_safe_cells(line) for line in picture.csv().splitlines()[: _MOST_ROWS + 1])
            return Response(
                text, media_type="text/csv", headers={"content-disposition": 'attachment; filename="rows.csv"'}
            )
        return _Json({"rows": table.to_pylist(), "shift": picture.shift})

    def log(self, request: Request) -> Response:
        """Lines of a log file, the last first."""
        asked = request.query_params
        paths = self._gallery.paths(*_key(request))
        found = log_lines(paths, asked.get("file", "main"), asked.get("q", ""), _number(asked, "rank", 0))
        return _Json(found)

    def report(self, request: Request) -> Response:
        """The report, to keep."""
        name = request.path_params["name"]
        headers = {"content-disposition": f'attachment; filename="{name}.html"'}
        return Response(report_page(self._run(request)), media_type="text/html", headers=headers)

    def compare(self, request: Request) -> Response:
        """A metric of several runs."""
        asked = request.query_params
        keys = [each.partition("/") for each in asked.getlist("run")]
        if not 2 <= len(keys) <= _MOST_RUNS:
            raise ValueError(f"run: expected 2 to {_MOST_RUNS}, got {len(keys)}")
        runs = [self._gallery.run(_folder(folder), name) for folder, _, name in keys]
        metrics = [name for name in runs[0].metric_names() if all(name in run.metric_names() for run in runs[1:])]
        metric = asked.get("metric") or next((name for name in ("loss", *metrics) if name in metrics), None)
        if metric is None:
            return _packed({"metric": None, "metrics": [], "charts": []}, Planes())
        span = (_number(asked, "from"), _number(asked, "to")) if "from" in asked else None
        found = compare(runs, metric, span=span, width=_number(asked, "width", 750))
        planes = Planes()
        charts = []
        for (folder, _, name), picture in zip(keys, found.pictures, strict=True):
            charts += [
                {"folder": int(folder), "name": name, "shift": picture.shift, "series": series}
                for series in picture_planes(picture, planes)
            ]
        first, why = None, None
        if len(runs) == 2:
            try:
                first = first_difference(runs[0], runs[1], metric)
            except ValueError as error:
                why = str(error)
        lows, highs = zip(*(picture.span for picture in found.pictures), strict=True)
        told = {
            "metric": metric,
            "metrics": metrics,
            "charts": charts,
            "span": [min(lows), max(highs)],
            "why": why,
            "first": None if first is None else {"step": first.step, "rank": first.rank, "values": list(first.values)},
        }
        return _packed(told, planes)

    async def live(self, request: Request) -> Response:
        """A line whenever the files of a run have changed, until the reader goes."""
        try:
            folder, name = _key(request)
            await anyio.to_thread.run_sync(self._gallery.stamp, folder, name)
        except RunNotFoundError:
            return PlainTextResponse("no such run", 404)

        async def lines() -> AsyncIterator[bytes]:
            before = None
            while True:
                try:
                    stamp = await anyio.to_thread.run_sync(self._gallery.stamp, folder, name)
                except RunNotFoundError:
                    return
                # An empty line, so that a reader that has gone is noticed.
                yield b"\n" if stamp == before else json.dumps({"version": hash(stamp)}).encode() + b"\n"
                before = stamp
                await asyncio.sleep(_LOOK_S)

        return StreamingResponse(lines(), media_type="application/x-ndjson")


def _key(request: Request) -> tuple[int, str]:
    """:raises RunNotFoundError: there is no such folder."""
    return _folder(request.path_params["folder"]), request.path_params["name"]


def _folder(text: str) -> int:
    """:raises RunNotFoundError: it is no number of a folder."""
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise RunNotFoundError("folder: expected its number")
    return int(text)


class _Json(Response):
    """JSON in ASCII: a run's text may hold what UTF-8 has not."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(plain(content), allow_nan=False).encode()


def _packed(facts: Mapping[str, Any], planes: Planes) -> Response:
    """Facts and numbers in one answer: the bytes of the JSON as a little-endian uint32, the JSON, the numbers."""
    told = json.dumps(plain(dict(facts)), allow_nan=False).encode()
    return Response(struct.pack("<I", len(told)) + told + planes.deflated(), media_type="application/octet-stream")


def _listed(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **row,
        "started": None if row["started"] is None else row["started"].isoformat(timespec="seconds"),
        "config": {name: str(value)[:200] for name, value in row["config"].items()},
    }


def _number(asked: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = asked.get(name)
    if text is None and default is not None:
        return default
    try:
        return int(text or "")
    except ValueError:
        raise ValueError(f"{name}: expected a number, got {text!r}") from None


def _safe_cells(line: str) -> str:
    """What a spreadsheet would take for a formula is quoted."""
    return ",".join(f"'{cell}" if cell[:1] in ("=", "@") else cell for cell in line.split(","))
