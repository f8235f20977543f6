"""Measures anyssh beside other SSH implementations; run it with ``python -m benchmarks``."""
