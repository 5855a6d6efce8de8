"""The conformance checker for environment servers: it plays against them and says what is wrong."""
