"""E2B's network rules as policies: what each address family may do by default."""

from __future__ import annotations

from typing import Any

import pytest

from harness.gateway.fleets.network import policy
from harness.network.policy import Policy

V4, V6 = "0.0.0.0/0", "::/0"


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({}, Policy.of([], [], [], default="allow")),
        ({"denyOut": [V4]}, Policy.of([], [], [], default="deny")),
        ({"denyOut": ["*"]}, Policy.of([], [], [], default="deny")),
        ({"denyOut": [V6]}, Policy.of([], [V6], [], default="allow")),
        ({"denyOut": ["0::0/0"]}, Policy.of([], [V6], [], default="allow")),
        ({"denyOut": [V4, V6]}, Policy.of([], [], [], default="deny")),
        ({"denyOut": [V4], "allowOut": [V6]}, Policy.of([], [V4], [], default="allow")),
        ({"denyOut": [V4], "allowOut": ["0::/0"]}, Policy.of([], [V4], [], default="allow")),
        ({"denyOut": ["*"], "allowOut": [V4]}, Policy.of([], [V6], [], default="allow")),
        ({"denyOut": ["*"], "allowOut": ["*"]}, Policy.of([], [], [], default="allow")),
        ({"allow_internet_access": False}, Policy.of([], [], [], default="deny")),
        (
            {"allow_internet_access": False, "allowOut": [V6]},
            Policy.of([], [V4], [], default="allow"),
        ),
        (
            {"denyOut": [V4, "192.0.2.1"], "allowOut": ["198.51.100.0/24"]},
            Policy.of(["198.51.100.0/24"], ["192.0.2.1"], [], default="deny"),
        ),
    ],
)
def test_a_prefix_decides_for_its_own_family(rules: Any, expected: Policy) -> None:
    assert policy(rules) == expected
