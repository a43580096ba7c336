"""Stages as lists of independent jobs: what a job is, where finished ones are kept, and how they are run; no torch."""
