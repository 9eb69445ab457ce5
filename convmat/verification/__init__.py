"""Verification: a result against the definition, the bound it is judged by, and the self-check."""

from convmat.verification.judging import Report, compare, compare_exactly, verify

__all__ = ["Report", "compare", "compare_exactly", "verify"]
