"""Policies: their specs, networks, compiled forward pass, and the policy file format."""
