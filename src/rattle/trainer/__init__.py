"""The in-process training loop: collectors, learner, checkpoints and the run directory put together."""
