"""Settings: their definitions, and where they come from."""
