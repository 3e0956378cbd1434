"""Benchmarks: each one command, each prints one table."""
