"""Stages that are plain functions: a conversion that drops what it cannot use, and a tick that becomes two events.

Embedded, as below:

    python examples/stage_function.py

or in the daemon, named by its configuration (here weather.toml):

    [stages.celsius]
    function = "stage_function:celsius"
    topics = ["weather.>"]

    [stages.warn]
    function = "stage_function:warn"
    topics = ["weather.>"]

    PYTHONPATH=examples heliograph run --config weather.toml
"""

import asyncio

from heliograph import Engine, Event, Pipeline


def celsius(event: Event) -> Event | None:
    """The event with its temperature in °C; one without a temperature goes no further."""
    reading = event.data
    if not isinstance(reading, dict) or "fahrenheit" not in reading:
        return None
    return event.replace(data={"celsius": round((reading["fahrenheit"] - 32) / 1.8, 1)})


def warn(event: Event) -> list[Event]:
    """The event as it is, and above 35 °C an alert too."""
    degrees = event.data["celsius"]
    if degrees <= 35:
        return [event]
    return [event, Event.of(f"alert.{event.topic}", {"celsius": degrees}, type="heat", priority="high")]


async def main() -> None:
    pipeline = Pipeline().stage("celsius", celsius, topics=["weather.>"]).stage("warn", warn, topics=["weather.>"])
    async with (
        Engine(workers=0, port=0, admin_port=0, pipeline=pipeline) as engine,
        engine.client() as client,
        client.subscribe(">") as events,
    ):
        await engine.publish("weather.oslo", {"fahrenheit": 59})
        await engine.publish("weather.cairo", {"fahrenheit": 104})
        for _ in range(3):
            event = await anext(events)
            print(event.topic, event.data)


if __name__ == "__main__":
    asyncio.run(main())
