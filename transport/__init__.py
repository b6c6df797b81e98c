"""Bytes: topics, events, wire forms, the WebSocket connection and the bus. Imports neither actors nor engine."""
