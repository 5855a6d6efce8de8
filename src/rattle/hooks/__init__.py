"""Hooks that come with Rattle: they show a run in tools that a team may use already."""
