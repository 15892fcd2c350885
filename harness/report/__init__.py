"""Records to one page."""
