"""Where a token comes from, what is none, and that nothing but the token's user sees it."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from actors import token as module
from actors.failure import FailureKind, UpstreamRefused
from actors.token import TokenSource

SECRET = "s3cr3t"


def get(source: TokenSource) -> str | None:
    return asyncio.run(source.get())


def refusal(source: TokenSource) -> UpstreamRefused:
    with pytest.raises(UpstreamRefused) as caught:
        get(source)
    assert caught.value.kind is FailureKind.UNAUTHORIZED
    assert SECRET not in str(caught.value) and SECRET not in repr(caught.value)
    return caught.value


def test_none_is_none() -> None:
    assert get(TokenSource()) is None


def test_a_text_is_itself_and_will_never_change() -> None:
    source = TokenSource(text=SECRET)
    assert (get(source), source.fixed) == (SECRET, True)


def test_a_file_is_read_each_time_without_the_whitespace_around(tmp_path: Path) -> None:
    path = tmp_path / "token"
    source = TokenSource(file=str(path))
    assert not source.fixed
    path.write_text(f" {SECRET}\n")
    assert get(source) == SECRET
    path.write_text("another")
    assert get(source) == "another"
    path.unlink()
    assert refusal(source).detail == "no token: FileNotFoundError"


@pytest.mark.parametrize("content", [b"", b" \n", b"s3cr3t\ns3cr3t", b"s3cr3t\x00", b"s3cr3t\xc3\xa9", b"s3cr3t\xff"])
def test_a_file_without_a_usable_token_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    refusal(TokenSource(file=str(path)))


def test_a_plain_function_is_asked_each_time_and_may_block() -> None:
    threads: list[int] = []

    def make() -> str:
        threads.append(threading.get_ident())
        return f"{SECRET}{len(threads)}"

    source = TokenSource(function=make)
    assert [get(source), get(source)] == ["s3cr3t1", "s3cr3t2"]
    assert threading.get_ident() not in threads
    assert not source.fixed


def test_an_async_function_is_awaited_on_the_loop() -> None:
    threads: list[int] = []

    async def make() -> str:
        threads.append(threading.get_ident())
        return SECRET

    assert get(TokenSource(function=make)) == SECRET
    assert threads == [threading.get_ident()]


def test_a_plain_function_that_returns_a_coroutine_will_do() -> None:
    async def make() -> str:
        return SECRET

    assert get(TokenSource(function=lambda: make())) == SECRET


@pytest.mark.parametrize("wrong", [None, 7, SECRET.encode(), [SECRET], {"token": SECRET}])
@pytest.mark.parametrize("is_async", [False, True])
def test_an_answer_that_is_no_text_is_refused(wrong: Any, is_async: bool) -> None:
    async def answer() -> Any:
        return wrong

    refusal(TokenSource(function=answer if is_async else lambda: wrong))


@pytest.mark.parametrize("is_async", [False, True])
def test_what_a_function_raises_is_named_without_its_text(is_async: bool) -> None:
    def fail() -> str:
        raise LookupError(f"no {SECRET} here")

    async def fail_later() -> str:
        return fail()

    assert refusal(TokenSource(function=fail_later if is_async else fail)).detail == "no token: LookupError"


@pytest.mark.parametrize("is_async", [False, True])
def test_a_function_that_takes_too_long_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, is_async: bool) -> None:
    monkeypatch.setattr(module, "TOKEN_TIMEOUT_S", 0.02)
    release = threading.Event()

    def slow() -> str:
        release.wait(5)
        return SECRET

    async def slow_too() -> str:
        await asyncio.sleep(5)
        return SECRET

    async def main() -> None:
        try:
            with pytest.raises(UpstreamRefused, match=r"no token within 0\.02 s") as caught:
                await TokenSource(function=slow_too if is_async else slow).get()
            assert caught.value.kind is FailureKind.UNAUTHORIZED
        finally:
            release.set()

    asyncio.run(main())


def test_who_cancels_is_obeyed() -> None:
    async def never() -> str:
        await asyncio.sleep(60)
        return SECRET

    async def main() -> None:
        asking = asyncio.ensure_future(TokenSource(function=never).get())
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

    asyncio.run(main())


def test_its_repr_holds_no_token(tmp_path: Path) -> None:
    assert SECRET not in repr(TokenSource(text=SECRET))
    assert os.fspath(tmp_path) in repr(TokenSource(file=str(tmp_path)))
