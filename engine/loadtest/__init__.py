"""Load on any WebSocket server, by real sockets, and a judgement of how it took it. See ``docs/loadtest.md``."""
