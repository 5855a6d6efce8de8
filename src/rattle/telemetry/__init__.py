"""Telemetry: the pipe that events go through, and rows of tables on their way to RabbitMQ, by an outbox on disk."""
