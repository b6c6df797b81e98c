"""A file that pages may load from the client port, whatever their origin: public, and the same for everybody. Pure."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from http import HTTPStatus
from typing import NamedTuple, Self

from transport import http

CACHING = "no-cache"  # kept, but asked for each time: an engine of another version may answer


class StaticFile(NamedTuple):
    """Its bytes, plain and as gzip has them, and the tag by which a browser asks whether what it has is the same."""

    body: bytes
    packed: bytes
    media_type: str
    etag: str

    @classmethod
    def of(cls, body: bytes, media_type: str) -> Self:
        """With a tag of the content, a weak one: it stands for both forms. Takes a millisecond."""
        etag = f'W/"{hashlib.sha256(body).hexdigest()[:16]}"'
        return cls(body, gzip.compress(body, mtime=0), media_type, etag)

    def is_known(self, asked: Mapping[str, str]) -> bool:
        """Whether who asks, with these headers in lower case, has it already."""
        tag = self.etag.removeprefix("W/")
        return any(known.strip().removeprefix("W/") == tag for known in asked.get("if-none-match", "").split(","))

    def answer(self, asked: Mapping[str, str]) -> tuple[int, bytes, http.Headers]:
        """Status, body and headers for a request whose headers, with lower-case names, are ``asked``: 200, or 304 where
        who asks has it already."""
        headers: http.Headers = (
            ("Access-Control-Allow-Origin", "*"),
            ("Cache-Control", CACHING),
            ("ETag", self.etag),
            ("Vary", "Accept-Encoding"),
            ("X-Content-Type-Options", "nosniff"),
        )
        if self.is_known(asked):
            return HTTPStatus.NOT_MODIFIED, b"", headers
        if _takes_gzip(asked.get("accept-encoding", "")):
            return HTTPStatus.OK, self.packed, (*headers, ("Content-Encoding", "gzip"))
        return HTTPStatus.OK, self.body, headers

    def response(self, asked: Mapping[str, str]) -> bytes:
        """The same as a whole answer, after which the connection is closed."""
        status, body, headers = self.answer(asked)
        media_type = None if status == HTTPStatus.NOT_MODIFIED else self.media_type
        return http.response(status, media_type, body, headers)


def _takes_gzip(accepted: str) -> bool:
    for coding in accepted.split(","):
        name, _, weight = coding.replace(" ", "").lower().partition(";")
        if name == "gzip":
            return weight.rstrip(".0") != "q="
    return False
