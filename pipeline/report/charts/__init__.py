"""The charts of a report: one module for each subject, drawn by Vega-Lite on the page, as SVG and as PNG."""
