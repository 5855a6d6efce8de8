"""The dashboard: pages over run directories or a store."""
