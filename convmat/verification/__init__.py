"""Verification: a result against the definition, the bound it is judged by, and the self-check."""

from convmat.verification.comparison import compare, compare_exactly
from convmat.verification.edge import verify
from convmat.verification.verdict import Report

__all__ = ["Report", "compare", "compare_exactly", "verify"]
