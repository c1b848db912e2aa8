"""Decisions: pure functions of what was observed. No clock, no disk, no loop; `now` is an argument."""
