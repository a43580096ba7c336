"""What every stage script shares: its frame, its resume points, its files, and what DVC has to know of it."""
