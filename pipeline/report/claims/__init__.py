"""What the papers claim, held against a run: the claims of accuracy and of robustness, their verdicts, their page."""
