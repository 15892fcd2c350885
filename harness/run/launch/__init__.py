"""Starting a worker process."""
