"""Clocks, statistics, machine facts, validity and the run record. Imports no sandbox and no site."""
