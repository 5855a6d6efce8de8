"""The ingest service: takes rows from the broker, and acknowledges them when they are in the store."""
