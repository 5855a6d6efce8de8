"""The mock environment service: the agent API with a fixed script and no game."""
