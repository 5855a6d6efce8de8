"""What a sample is, described once: spaces of observations and actions, and the fields of a rollout."""
