"""Clocks, statistics, machine facts, validity, the run record. Imports no sandbox and no site."""
