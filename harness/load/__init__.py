"""Open-loop load: arrivals, the generator that keeps them, and what it says of itself."""
