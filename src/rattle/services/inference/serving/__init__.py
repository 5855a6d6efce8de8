"""Serving policies to anyone, in the Open Inference Protocol."""
