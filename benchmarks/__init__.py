"""Measures anyssh and other SSH implementations side by side: ``python -m benchmarks``."""
