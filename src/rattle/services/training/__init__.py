"""The Training service: actors' rollouts in, better policies out."""
