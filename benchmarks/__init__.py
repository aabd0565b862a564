"""Timings of pixaff against the published way; run them as modules: python -m benchmarks.walk."""
