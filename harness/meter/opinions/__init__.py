"""Second opinions: other people's meters, run beside ours over the same window."""
