"""This machine: processes, privileges, packages, what a run created and how it goes away."""
