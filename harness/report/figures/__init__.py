"""The figures: each file draws one, from a :class:`~harness.report.view.View`."""
