"""cubenet: a bridge in a network namespace of our own, addresses, and policy that packets obey."""
