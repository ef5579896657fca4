from __future__ import annotations

import json

import pytest

from harness.errors import PolicyError
from harness.network.policy import Destination, Policy, Shape

WHOLE = {
    "allow": ["10.77.3.4", "10.77.0.0/16 tcp/80", "2001:db8::/32", "fd00::1 udp/53"],
    "deny": ["192.0.2.0/24"],
    "dns": ["10.77.0.1"],
    "default": "allow",
}


def test_json_round_trip() -> None:
    policy = Policy.from_json(json.dumps(WHOLE))
    assert {key: sorted(value) for key, value in policy.to_json().items()} == {
        key: sorted(value) for key, value in WHOLE.items()
    }
    assert Policy.from_json(policy.to_json()) == policy
    assert Policy.from_json("{}") == Policy()
    assert Policy().default == "deny"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10.0.0", "not an address"),
        ("10.0.0.300", "not an address"),
        ("example.org", "not an address"),
        ("", "not a destination"),
        ("10.0.0.1 tcp/80 udp/53", "not a destination"),
        ("10.0.0.1 tcp", "not a service"),
        ("10.0.0.1 tcp/0", "not a service"),
        ("10.0.0.1 tcp/70000", "not a service"),
        ("10.0.0.1 icmp/8", "not a service"),
        ("10.0.0.0/33", "not an address"),
        ("10.0.0.0/-1", "not an address"),
        ("10.0.0.5/8", "write it as 10.0.0.0/8"),
        ("10.0.0.0/64", "is an IPv4 address, whose prefix length is at most 32"),
        ("::ffff:10.0.0.1", "write it as 10.0.0.1"),
        ("2001:db8::1/32", "write it as 2001:db8::/32"),
    ],
)
def test_malformed_destinations_are_refused_with_a_hint(text: str, message: str) -> None:
    with pytest.raises(PolicyError) as refused:
        Destination.parse(text)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "object"),
        ('{"alow": []}', "no alow"),
        ('{"allow": "10.0.0.1"}', "lists"),
        ('{"allow": [7]}', "must be a string"),
        ('{"default": "maybe"}', "'maybe'"),
        ('{"dns": ["10.0.0.1 udp/53"]}', "without a port"),
    ],
)
def test_a_malformed_policy_is_refused(text: str, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        Policy.from_json(text)


def test_overlapping_prefixes_and_duplicates_are_merged() -> None:
    policy = Policy.of(
        ["10.1.0.0/16", "10.0.0.0/8", "10.1.2.3", "10.0.0.0/8", "fd00::1", "fd00::/8"]
    )
    assert [str(one) for one in policy.allow] == ["10.0.0.0/8", "fd00::/8"]


def test_prefixes_of_different_services_are_not_merged() -> None:
    policy = Policy.of(["10.0.0.0/8 tcp/80", "10.1.2.3", "10.1.2.3 tcp/80", "10.1.2.3 udp/80"])
    shown = {str(one) for one in policy.allow}
    assert shown == {"10.0.0.0/8 tcp/80", "10.1.2.3", "10.1.2.3 udp/80"}


def test_neighbouring_addresses_are_not_merged() -> None:
    assert set(Policy.of(["10.0.0.0", "10.0.0.1"]).plan) == {Shape("allow", 4, 32, False)}


def test_services_allow_resolving_the_mac_address_and_dns_has_its_own_set() -> None:
    plan = Policy.of(["10.77.0.9 tcp/80"], dns=["10.77.0.1"]).plan
    assert len(plan[Shape("near", 4, 32, False)]) == 2
    assert len(plan[Shape("allow", 4, 32, True)]) == 1
    assert len(plan[Shape("dns", 4, 32, True)]) == 2, "for UDP and TCP"


def test_deny_is_empty_when_the_default_denies() -> None:
    denied = ["192.0.2.1"]
    assert Policy.of(deny=denied).plan == {}
    assert Shape("deny", 4, 32, False) in Policy.of(deny=denied, default="allow").plan


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("10.77.1.2", True), ("10.78.1.2", False), ("0.0.0.0/0", True), ("10.64.0.0/10", True),
        ("10.0.0.0/13", False), ("fd77:c0bb:1ce::5", True), ("fd77:c0bb:1cf::5", False),
        ("::/0", True),
    ],
)  # fmt: skip
def test_entries_on_the_bridge_are_near(text: str, near: bool) -> None:
    assert bool(Policy.of([text]).near) == near
