"""Learning: rollouts in, policy updates out. Tensors only; no files, no networks, no clocks."""
