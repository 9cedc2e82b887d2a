"""Keeps browser sessions alive over one WebSocket a page, instead of AJAX polling."""

__version__ = "0.1.0"
