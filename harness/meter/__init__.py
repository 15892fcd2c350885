"""Measuring energy."""
