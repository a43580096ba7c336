"""Grow-push-prune with deep discriminant analysis, and the robustness of what comes out of it."""
