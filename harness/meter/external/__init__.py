"""External meters: what another instrument or exporter says, read from a CSV file or a Prometheus endpoint."""
