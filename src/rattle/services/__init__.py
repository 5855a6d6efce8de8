"""Network faces, one folder a service: decode, call the core, encode."""
