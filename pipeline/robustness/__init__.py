"""Robustness: noise, conditions, and who is fooled more; attacks are in `pipeline.attacks`."""
