"""Starts the services of an experiment."""
