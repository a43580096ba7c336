"""The page: one HTML file that needs nothing beside it, from the sections' Markdown and the charts."""
