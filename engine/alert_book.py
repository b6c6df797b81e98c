"""What many users want: preferences by user, held here, kept in a file, applied to the users' sessions."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import msgspec

from engine.alert import Alert, form_of
from engine.cli_admin import ask
from engine.preferences import Preferences
from transport.errors import ConfigError, RequestError, Unsupported
from transport.topics import check_user


class AlertBook:
    """Users and their preferences. Holding them changes nothing in an engine; :meth:`apply` does.

    Args:
        preferences: to begin with.

    Raises:
        RequestError: ``bad_request``: a name that no user can have.
    """

    def __init__(self, preferences: Mapping[str, Preferences] | None = None) -> None:
        self._preferences: dict[str, Preferences] = {}
        for user, wanted in (preferences or {}).items():
            self.set(user, wanted)

    def __len__(self) -> int:
        return len(self._preferences)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._preferences))

    def set(self, user: str, preferences: Preferences) -> None:
        """Hold a user's preferences instead of those before."""
        self._preferences[check_user(user)] = preferences

    def get(self, user: str) -> Preferences | None:
        """A user's preferences; ``None`` for a user without."""
        return self._preferences.get(user)

    def remove(self, user: str) -> bool:
        """Forget a user's preferences; whether there were any."""
        return self._preferences.pop(user, None) is not None

    def wanting(self, alert: Alert) -> list[str]:
        """The users who want this alert as published, by asking each: O(users); the engine has an index for it."""
        return [user for user in self if self._preferences[user].accepts(alert)]

    # The file

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """A book from a file that :meth:`save` wrote.

        Raises:
            ConfigError: it cannot be read, or holds something else; ``field`` is like ``alice.min_confidence``.
        """
        book = cls()
        try:
            entries = msgspec.json.decode(Path(path).read_bytes(), type=dict[str, msgspec.Raw])
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror or error}") from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ConfigError(f"{path} holds no preferences by user: {error}") from None
        for user, entry in entries.items():
            try:
                book.set(user, Preferences.decode(bytes(entry)))
            except RequestError as error:
                raise ConfigError(f"{error.message} (in {path})", f"{user}.{error.field or ''}".rstrip(".")) from None
        return book

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all to a file, JSON, readable by this user only; it is replaced as a whole or not at all."""
        path = Path(path)
        text = msgspec.json.format(msgspec.json.encode(self._preferences, order="sorted"))
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(text + b"\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise

    # The engine

    async def apply(self, user: str, *kinds: type[Alert], admin_url: str, api_key: str | None = None) -> int:
        """Subscribe the sessions that ``user`` has at this moment to what the user wants of these kinds.

        It replaces what they had for the same topics. Sessions that come later have nothing of it: call this again.
        For a user without preferences the sessions are unsubscribed.

        Returns:
            How many sessions it was done for.

        Raises:
            ConnectionLost: nobody answers at ``admin_url``.
            RequestError: refused; ``unsupported``: the preferences have ``per_hour``, which only
                :meth:`engine.alerts.Alerts.subscribe` can keep.
        """
        topics = [form_of(kind).pattern for kind in kinds]
        body: dict[str, Any] = {"topics": topics}
        preferences = self.get(user)
        if preferences is not None:
            if preferences.per_hour is not None:
                raise Unsupported("per_hour for sessions of other programs", "per_hour")
            body["where"] = preferences.where(*kinds)
        what = "unsubscribe" if preferences is None else "subscribe"
        path = f"/api/users/{quote(check_user(user), safe='')}/{what}"
        # A thread: the client of the admin API blocks, and the engine may be on this very loop.
        answer = await asyncio.to_thread(ask, "POST", admin_url, path, api_key, msgspec.json.encode(body))
        sessions: int = answer["sessions"]
        return sessions
