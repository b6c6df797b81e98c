"""Composition: configuration, processes, wiring, admin, command line and the Python client."""
