"""Composition: configuration, processes, wiring, admin, command line and the Python client."""

__version__ = "0.1.0"
