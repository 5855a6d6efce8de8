"""Multi-agent Snake under fog of war: readable rules (`reference`) and a compiled batch of worlds (`batch`)."""
