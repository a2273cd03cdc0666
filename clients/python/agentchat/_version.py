"""The version of this distribution."""

VERSION = "0.1.0"
"""Kept equal to the version in pyproject.toml by a test; reading it from there costs every start."""
