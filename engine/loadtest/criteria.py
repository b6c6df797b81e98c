"""What a server must reach to pass."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from engine.tables import about

Share = Annotated[float, Meta(ge=0, le=1)]
Above = Annotated[float, Meta(gt=0)]
Percent = Annotated[float, Meta(gt=0, le=100)]


class Criteria(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The limits; one that is none is not judged."""

    connections: Annotated[Share | None, about("opened at the first attempt, at least", "share")] = 1.0
    delivery_p99_ms: Annotated[Above | None, about("99 of 100 deliveries took at most", "ms")] = 50.0
    delivery_mean_ms: Annotated[Above | None, about("the mean delivery took at most", "ms")] = 50.0
    rate: Annotated[Share | None, about("of the rate that was to be published, at least", "share")] = 0.95
    delivered: Annotated[Share | None, about("of what was published to each connection came, at least", "share")] = 1.0
    in_order: Annotated[Share | None, about("of what came was no duplicate and not overtaken, at least", "share")] = 1.0
    uptime: Annotated[Share | None, about("of the time the connections were open, at least", "share")] = 0.99
    recovery_mean_s: Annotated[Above | None, about("cut connections were back in the mean after", "s")] = 5.0
    recovered: Annotated[Share | None, about("of the cut connections came back, at least", "share")] = 0.95
    cpu: Annotated[Percent | None, about("of the machine were needed in the mean, at most", "percent")] = 70.0
    memory: Annotated[Percent | None, about("of the machine's memory were in use, at most", "percent")] = 80.0
    longest_silence_s: Annotated[Above | None, about("nothing came for at most", "s")] = 1.0
