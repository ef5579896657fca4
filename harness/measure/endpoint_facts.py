"""What a record says of a service under test, known only by its address and its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Scalar = str | int | float | bool | None
Facts = Mapping[str, Scalar]


@dataclass(frozen=True)
class EndpointFacts:
    """The key `endpoint` of a record; the schema (schema/run-1.json) documents each part.

    Nothing here is a credential.
    """

    name: str
    system: str
    address: str
    told: Facts = field(default_factory=dict)
    answered: Facts = field(default_factory=dict)
    unknown: Sequence[str] = ()
    not_offered: Facts = field(default_factory=dict)
    limits: Facts = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """What two records have in common if they measured the same service: the system, its
        address and the template. What its user calls it does not matter."""
        template = self.told.get("template")
        return f"{self.system} at {self.address}{f', template {template}' if template else ''}"
