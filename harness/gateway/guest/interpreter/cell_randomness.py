"""Random state of its own for every sandbox.

A sandbox is a copy of another one's memory, and with it of every generator that a program has
seeded. The copy has another host name, by which the interpreter knows that it is one.
"""

import contextlib
import os
import ssl
import sys
from random import seed


class Randomness:
    def __init__(self):
        self._host = os.uname().nodename

    def renew(self):
        """Seed every generator again if this is another sandbox than it was, as Python does after
        `os.fork`. In the same one, what a cell has seeded goes on."""
        host = os.uname().nodename
        if host != self._host:
            self._host = host
            _seed_all()

    def forget(self):
        """Make the next `renew` seed again."""
        self._host = None


def _seed_all():
    seed(int.from_bytes(os.urandom(32), "little"))  # by itself it would read 2.5 KB
    ssl.RAND_add(os.urandom(32), 32.0)
    with contextlib.suppress(Exception):  # a cell may have replaced anything in a module
        if tempfile := sys.modules.get("tempfile"):
            tempfile._name_sequence = None  # it has a generator of its own
        if numpy_random := sys.modules.get("numpy.random"):
            numpy_random.seed()
