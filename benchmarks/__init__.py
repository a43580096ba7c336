"""What is measured against whom; ratios from one run on one machine, never part of the tests."""
