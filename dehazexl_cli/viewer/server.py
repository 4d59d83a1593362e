"""A server for the browsers of this machine alone: one page, what it is made of, and tiles."""

from __future__ import annotations

import logging
import re
import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import imagecodecs

from dehazexl_cli.errors import DehazeError, UsageError, reason
from dehazexl_cli.raster.base import Pixels
from dehazexl_cli.raster.pixels import interleaved
from dehazexl_cli.text import to_json
from dehazexl_cli.viewer.pyramid import TILE, Pyramid

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
ASSETS = Path(__file__).with_name("assets")
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css",
    ".js": "text/javascript",
    ".txt": "text/plain",
}
TILE_PATH = re.compile(r"tiles/(\d{1,4})/(\d{1,9})/(\d{1,9})/(\d{1,9})\.png", re.ASCII)
HEADERS = {
    # Whatever the page is made to do, it cannot tell another machine, and no other page can show its tiles.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
IDLE_SECONDS = 60  # until a connection that asks nothing is closed


@dataclass(frozen=True)
class Layer:
    """A raster of the page."""

    name: str
    about: str  # what is shown how, in words
    pyramid: Pyramid


class ViewServer(ThreadingHTTPServer):
    """Serves a page with layers, until `serve_forever` is stopped; `address` is where.

    A random part of the address keeps out who has not been told it, the Host header pages of other sites
    whose name was made to lead here. Raises UsageError where the port is taken.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, layers: Sequence[Layer], port: int = 0) -> None:
        self.layers = layers
        self.root = f"/{secrets.token_urlsafe(16)}/"
        self.files = {path.name: path for path in ASSETS.iterdir()}
        try:
            super().__init__((HOST, port), Handler)
        except OSError as error:
            raise UsageError(
                f"--port {port}: cannot be served on ({error.strerror})", "name another, or leave it out"
            ) from error
        self.address = f"http://{HOST}:{self.server_port}{self.root}"
        self.hosts = {f"{name}:{self.server_port}" for name in (HOST, "localhost")}

    def answer(self, path: str) -> tuple[str, bytes]:
        """Kind and content of what is under a path; LookupError for what there is not."""
        if not path.isascii() or not secrets.compare_digest(path[: len(self.root)], self.root):
            raise LookupError(path)
        name = path[len(self.root) :] or "index.html"
        if name in self.files:
            return KINDS[Path(name).suffix], self.files[name].read_bytes()
        if name == "scene.json":
            return "application/json", to_json(self.scene()).encode()
        found = TILE_PATH.fullmatch(name)
        if found is None:
            raise LookupError(path)
        layer, factor, row, col = map(int, found.groups())
        return "image/png", png(self.layers[layer].pyramid.tile(factor, row, col))

    def scene(self) -> dict[str, Any]:
        """What the page is told of its layers."""
        layers = [
            {
                "name": layer.name,
                "about": layer.about,
                "height": layer.pyramid.height,
                "width": layer.pyramid.width,
                "smallest": layer.pyramid.smallest,
            }
            for layer in self.layers
        ]
        return {"tile": TILE, "layers": layers}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of browsers that hang up, as they do wherever the reader has moved on."""
        error = sys.exception()
        if not isinstance(error, OSError):
            log.warning("a request failed: %r", error)


class Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD; the base class refuses all else."""

    server: ViewServer
    server_version, sys_version = "dehazexl", ""
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS

    def do_GET(self) -> None:
        """Send what is under the path, or say why not."""
        if self.headers.get("Host") not in self.server.hosts:
            self.send_error(HTTPStatus.FORBIDDEN, "Wrong host")
            return
        try:
            kind, content = self.server.answer(urlsplit(self.path).path)
        except (LookupError, ValueError):
            self.send_error(HTTPStatus.NOT_FOUND)
        except DehazeError as error:  # a file that is damaged there, or was taken away
            log.warning("%s", reason(error))
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR, explain=reason(error))
        else:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", "private, max-age=3600")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

    do_HEAD = do_GET  # noqa: N815

    def end_headers(self) -> None:
        """Add to every answer what keeps others out."""
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Keep requests out of the terminal."""


def png(pixels: Pixels) -> bytes:
    """Colours and alpha [4, height, width] uint8 as a PNG, without alpha where there is nothing behind it."""
    used = pixels if (pixels[3] < 255).any() else pixels[:3]
    return bytes(imagecodecs.png_encode(interleaved(used), level=1))
