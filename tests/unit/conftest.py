"""Hypothesis: no deadline (the machine is shared), no database beside the sources."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("unit", deadline=None, database=None, print_blob=True)
settings.load_profile("unit")
