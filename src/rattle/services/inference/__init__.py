"""The Inference service: plays agents, and serves policies to anyone."""
