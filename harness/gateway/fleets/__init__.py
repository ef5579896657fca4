"""Where a gateway's sandboxes come from: microVMs, containers, or nothing at all."""
