"""The Sync service: leads participants through ticks over UDP."""
