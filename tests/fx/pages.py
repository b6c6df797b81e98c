"""A web server of a page or two, as ``python -m http.server`` would be."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator, Mapping
from typing import Any


@contextlib.contextmanager
def served(files: Mapping[str, tuple[bytes, str]]) -> Iterator[str]:
    """Files by path, with their media types; the address that browsers know it by, ``http://localhost:PORT``."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # its base wants that name
            found = files.get(self.path.partition("?")[0])
            self.send_response(200 if found else 404)
            body, media_type = found or (b"", "text/plain")
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield f"http://localhost:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
