"""Stand-ins for foreign sandbox services, for tests and trials by hand. They are no such service.

`python -m tests.stand_ins --behaviour cubesandbox --port 0` serves one and prints its address;
tests start one in their own process with `tests.stand_ins.server.standing_in`. An honest stand-in
really runs what it is asked to run, as a process of this machine, without any isolation: it listens
on one address only, requires a key, and runs only the programs that rigs send.
"""
