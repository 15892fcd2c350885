"""Running a plan: runner, worker, training loop, events."""
