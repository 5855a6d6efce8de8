"""Clients of environment servers: worlds that are stepped elsewhere, and single agents."""
