"""The report, from tables alone: what a run produced, good or bad."""
