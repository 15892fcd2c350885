"""Paired energy and quality measurements of training methods."""

__version__ = "0.1.0"
