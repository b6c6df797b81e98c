"""What an Engine.IO server answers to requests that make no sense, as clients know it."""

from __future__ import annotations

import json
from enum import IntEnum
from http import HTTPStatus
from typing import Final

from transport.http import HttpError, response


class EngineCode(IntEnum):
    """``code`` of the body. Clients begin anew, with a handshake, after any of them."""

    UNKNOWN_TRANSPORT = 0
    UNKNOWN_SID = 1  # also of a session that has ended
    BAD_HANDSHAKE_METHOD = 2
    BAD_REQUEST = 3
    UNSUPPORTED_VERSION = 5


_MESSAGES: Final = {
    EngineCode.UNKNOWN_TRANSPORT: "Transport unknown",
    EngineCode.UNKNOWN_SID: "Session ID unknown",
    EngineCode.BAD_HANDSHAKE_METHOD: "Bad handshake method",
    EngineCode.BAD_REQUEST: "Bad request",
    EngineCode.UNSUPPORTED_VERSION: "Unsupported protocol version",
}


class EngineRefusal(HttpError):
    """Such a request: 400 and ``{"code", "message"}``."""

    def __init__(self, code: EngineCode) -> None:
        self.code = code
        super().__init__(HTTPStatus.BAD_REQUEST, _MESSAGES[code])

    def response(self) -> bytes:
        body = json.dumps({"code": self.code, "message": self.message}).encode()
        return response(self.status, "application/json", body, self.headers)
