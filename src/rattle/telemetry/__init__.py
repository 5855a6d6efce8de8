"""Telemetry: rows of tables on their way to RabbitMQ, through a bounded outbox on disk."""
