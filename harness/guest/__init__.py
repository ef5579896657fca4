"""The guest: how its image is built, and the protocol its agent speaks."""
