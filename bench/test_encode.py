"""What does a frame cost? One iteration is one publication encoded in one wire form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from transport.messages import Publication
from transport.wire_forms import JsonForm, MsgpackForm, WireForm


@pytest.mark.parametrize("form", [JsonForm(), MsgpackForm()], ids=["json", "msgpack"])
def test_encode(measure: Callable[..., Any], publications: Callable[..., list[Publication]], form: WireForm) -> None:
    (publication,) = publications(1)
    frame = measure(lambda: form.event(publication), 1)
    assert publication.topic.encode() in frame
