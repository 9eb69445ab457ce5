"""Benchmarks: `python -m tests.benchmarks` measures convmat beside its peers."""
