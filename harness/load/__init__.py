"""Load at a given rate: arrivals, and the generator that makes them and watches itself."""
