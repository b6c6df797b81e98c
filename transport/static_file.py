"""A file that pages may load from the client port, whatever their origin: public, and the same for everybody. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from http import HTTPStatus
from typing import NamedTuple, Self

from transport import http

CACHING = "no-cache"  # kept, but asked for each time: an engine of another version may answer


class StaticFile(NamedTuple):
    """Its bytes, and the tag by which a browser asks whether what it has is still the same."""

    body: bytes
    media_type: str
    etag: str

    @classmethod
    def of(cls, body: bytes, media_type: str) -> Self:
        """With a tag of the content."""
        return cls(body, media_type, f'"{hashlib.sha256(body).hexdigest()[:16]}"')

    def is_known(self, headers: Mapping[str, str]) -> bool:
        """Whether who asks has it already; ``headers`` has lower-case names. Proxies that compress weaken the tag."""
        tags = headers.get("if-none-match", "").split(",")
        return any(tag.strip().removeprefix("W/") == self.etag for tag in tags)

    @property
    def headers(self) -> http.Headers:
        """Of each answer."""
        return (("Access-Control-Allow-Origin", "*"), ("ETag", self.etag), ("X-Content-Type-Options", "nosniff"))

    def answer(self, headers: Mapping[str, str]) -> bytes:
        """A whole answer, after which the connection is closed: the file, or 304."""
        if self.is_known(headers):
            return http.response(HTTPStatus.NOT_MODIFIED, None, b"", self.headers, cache=CACHING)
        return http.response(HTTPStatus.OK, self.media_type, self.body, self.headers, cache=CACHING)
