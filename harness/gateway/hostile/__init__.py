"""Guests that break the protocol, and a gateway that serves them: for tests and a rig."""
