"""Grow-push-prune with deep discriminant analysis, and the robustness of what comes out of it."""

import os

# Before torch loads its OpenMP: threads that wait should sleep. Spinning ones made a training step on two
# cores ten times slower as soon as another process wanted one of them.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
