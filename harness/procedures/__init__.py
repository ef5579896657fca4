"""Measurement procedures that rigs share: cold starts, fleets, network paths, policies, reboots."""
