"""The sources of a gateway's sandboxes: microVMs, containers, or no guests at all."""
