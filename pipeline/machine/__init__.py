"""The machine that a run is on: its device, its memory, its processes, its random numbers."""
