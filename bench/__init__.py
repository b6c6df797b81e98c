"""Measurements: each file opens by saying what one iteration is. See `make bench` and `python -m bench.fanout`."""
