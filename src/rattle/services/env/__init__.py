"""The Env service: worlds over REST, for one agent and for thousands of worlds."""
