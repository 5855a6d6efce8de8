"""What a policy may see of its own past, in addition to what it observes."""
