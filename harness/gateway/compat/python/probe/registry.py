"""Registration of probes by method, and the values that they send."""

from __future__ import annotations

PROBES = {}
"""The probe of each method, by the method's name (surface.py); they run in this order."""
ODD = "a b@c:d+e%f%20=g&hé#?;,'\"\\$~ü\n"
"""A value that survives only where it is quoted exactly as often as it is unquoted."""
ODD_NAME = "x y@z:+%25=&é"
ODD_PATH = "odd/a b@c:d+e%f%20=g&hé#?;,'~ü.txt"
ODD_DIRECTORY = "/tmp/d é+%20&="
ALL_BYTES = bytes(range(256))


class Absent(Exception):
    """This version of the SDK has no such call."""


class Unavailable(Exception):
    """A method cannot be called since another one, which it needs, does not work. `reason` and
    `kind` are of the other."""

    def __init__(self, method, kind, reason):
        super().__init__(reason)
        self.method, self.kind, self.reason = method, kind, reason

    def reason_for(self, method):
        """What to say of a method that needs the other, or is it."""
        return self.reason if method == self.method else f"needs {self.method}: {self.reason}"


def probe(*methods):
    """Register a coroutine that takes the world and, for more than one method, a method's name."""

    def register(function):
        for method in methods:
            if method in PROBES:
                raise ValueError(f"{method} has two probes")
            name = method.partition(".")[2]
            PROBES[method] = (
                function if len(methods) == 1 else lambda world, name=name: function(world, name)
            )
        return function

    return register


def expect(condition, seen):
    """AssertionError with what was seen, unless the condition holds."""
    if not condition:
        raise AssertionError(f"unlike E2B: {seen!r}"[:400])
