"""Keeping what was measured."""
