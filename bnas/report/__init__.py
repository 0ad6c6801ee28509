"""A finished run in tables, figures, text and a page."""
