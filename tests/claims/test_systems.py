"""Whose system was measured, and which verdicts each claim can get from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.claims import claims, published, systems
from harness.claims.verdict import Evidence, Verdict, judge
from harness.measure.record import Facts

PUBLISHED = Path(__file__).parents[2] / "results/published"
CLAIMS = claims.load(published.load(PUBLISHED))
LINUX, FREEBSD = "Debian GNU/Linux 12 (bookworm)", "FreeBSD 13.2-RELEASE"

OWN = {"reproduced", "contradicted"}
OTHER = {"reached here", "not reached here"}

ALLOWED: dict[str, dict[str, set[str]]] = {
    "cubesandbox-cold-start": {"cubesandbox": OWN, "gateway": OTHER, "qemu": OTHER},
    "cubesandbox-fifty-average": {"cubesandbox": OWN, "gateway": OTHER, "qemu": OTHER},
    "cubesandbox-fifty-p95": {"cubesandbox": OWN, "gateway": OTHER, "qemu": OTHER},
    "cubesandbox-fifty-p99": {"cubesandbox": OWN, "gateway": OTHER},
    "cubesandbox-june-one": {"cubesandbox": OWN, "gateway": OTHER},
    "cubesandbox-june-fifty": {"cubesandbox": OWN, "gateway": OTHER},
    "cubesandbox-memory": {"cubesandbox": OWN, "qemu": OTHER, "bhyve": OTHER},
    "cubesandbox-host-memory": {"cubesandbox": OWN, "qemu": OTHER, "bhyve": OTHER},
    "cubesandbox-endpoints": {"cubesandbox": OWN, "gateway": OTHER},
    "cubesandbox-resume": {"cubesandbox": OWN, "qemu": OTHER},
    "cubesandbox-churn": {"cubesandbox": OWN, "gateway": OTHER},
    "cubesandbox-churn-p99": {"cubesandbox": OWN, "gateway": OTHER},
    "cubesandbox-eighty": {"cubesandbox": OWN, "gateway": OTHER},
    "cubesandbox-usable-eight": {"cubesandbox": OWN, "gateway": OTHER},
    "cubesandbox-rate": {"cubesandbox": OWN, "gateway": OTHER},
    "northflank-alive": {"northflank": OWN, "gateway": OTHER},
    "computesdk-archil-hundred": {"archil": OWN, "gateway": OTHER},
    "computesdk-e2b-hundred": {"e2b": OWN, "gateway": OTHER},
    "computesdk-e2b-one": {"e2b": OWN, "gateway": OTHER},
    "e2b-create": {"e2b": OWN, "gateway": OTHER},
    "mitos-burst": {"mitos": OWN, "gateway": OTHER},
    "agentenv-resume": {"agentenv": OWN, "qemu": OTHER},
    "coppice-cold-start": {"bhyve": OWN, "qemu": OTHER},
    "coppice-durable-pool": {"bhyve": OWN, "qemu": OTHER},
    "coppice-full-boot": {"bhyve": OWN, "qemu": OTHER},
    "coppice-prewarm": {"bhyve": OWN, "qemu": OTHER},
    "coppice-ten-at-once": {"bhyve": OWN, "qemu": OTHER},
    "coppice-jail": {"jails": OWN, "containers": OTHER},
    "coppice-jail-network": {"jails": OWN, "containers": OTHER},
    "coppice-jail-ten": {"jails": OWN, "containers": OTHER},
    "coppice-docker": {"docker": OWN},
    "coppice-thousand": {"bhyve": OWN, "qemu": OTHER},
    "coppice-density": {"bhyve": OWN, "qemu": OTHER},
    "coppice-eight": {"bhyve": OWN, "qemu": OTHER},
    "coppice-fifty": {"bhyve": OWN, "qemu": OTHER},
    "coppice-two-hundred": {"bhyve": OWN, "qemu": OTHER},
    "coppice-four-hundred": {"bhyve": OWN, "qemu": OTHER},
    "coppice-unpatched": {"bhyve": OWN, "qemu": OTHER},
    "coppice-network-rtt": {"pf": OWN, "nftables": OTHER},
    "coppice-network-rtt-p99": {"pf": OWN, "nftables": OTHER},
    "coppice-network-rtt-spread": {"pf": OWN, "nftables": OTHER},
    "coppice-network-throughput": {"pf": OWN, "nftables": OTHER},
    "coppice-policy-update": {"pf": OWN, "nftables": OTHER, "ebpf": OTHER},
    "coppice-policy-enforcement": {"pf": OWN, "nftables": OTHER},
    "coppice-policy-anchor": {"pf": OWN, "nftables": OTHER},
    "coppice-sdk": {"coppice-gateway": OWN, "gateway": OTHER},
    "coppice-deny-by-default": {"pf": OWN, "nftables": OTHER},
}
"""Written by hand: for each claim, the verdicts on the merits that a system can give it."""


def test_every_claim_is_in_the_table() -> None:
    assert set(ALLOWED) == {one.id for one in CLAIMS}


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda one: one.id)
def test_verdicts_by_system(claim: claims.Claim) -> None:
    """Each answer, made comparable, with figures far below and far above the claimed value."""
    for system, words in ALLOWED[claim.id].items():
        seen = set()
        for answer in claim.answers:
            bound = answer.bound if answer.bound is not None else claim.figure.value
            assert bound is not None
            asked = claims.Answer(
                answer.rig, answer.metric, "max", "at-most", True, answer.why, "t", bound=bound
            )
            for value in (bound / 10 - 1, bound * 10 + 1):
                seen.add(str(judge(claim, asked, Evidence([value], system=system)).verdict))
        assert seen == words, system


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda one: one.id)
def test_the_systems_of_a_claims_answers_are_in_the_table(claim: claims.Claim) -> None:
    """The system of a series that an answer names, on the host where it can run."""
    for answer in claim.answers:
        on_freebsd = {"bhyve", "pf"} & set(map(str, answer.where.values())) or "jail" in str(
            answer.where.get("substrate")
        )
        system = systems.of_series(answer.where, FREEBSD if on_freebsd else LINUX, answer.rig)
        assert system in ALLOWED[claim.id], answer
        verdict = judge(claim, answer, Evidence([0.0] * 500, system=system)).verdict
        assert verdict in ALLOWED[claim.id][system] or (
            verdict is Verdict.NOT_COMPARABLE and not answer.comparable
        )


@pytest.mark.parametrize(
    ("dimensions", "os", "system", "rig"),
    [
        ({"substrate": "qemu", "tier": "full"}, LINUX, "qemu", "cold-start"),
        ({"substrate": "bhyve"}, FREEBSD, "bhyve", "cold-start"),
        ({"substrate": "bhyve"}, LINUX, f"bhyve on {LINUX}", "cold-start"),
        ({"substrate": "jail-vnet-pf"}, FREEBSD, "jails", "cold-start"),
        ({"substrate": "oci-net-overlay"}, LINUX, "containers", "cold-start"),
        ({"substrate": "docker"}, LINUX, "docker", "cold-start"),
        ({"mechanism": "pf", "transport": "pfctl"}, FREEBSD, "pf", "cold-start"),
        ({"mechanism": "nftables", "transport": "netlink"}, LINUX, "nftables", "cold-start"),
        ({"mechanism": "ebpf-lpm", "transport": "swap"}, LINUX, "ebpf", "cold-start"),
        ({"path": "policy", "cores": 1}, LINUX, "nftables", "net-rtt"),
        ({"path": "policy", "cores": 1}, FREEBSD, "pf", "cold-start"),
        ({"substrate": "qemu", "sdk": "http"}, LINUX, "gateway", "e2b-latency"),
        ({"substrate": "qemu", "arrivals": "poisson"}, LINUX, "gateway", "e2b-storm"),
        ({"substrate": "qemu", "arrivals": "poisson"}, LINUX, "qemu", "storm"),
        ({"operation": "GET /health", "sdk": "python-2.63.0"}, LINUX, "gateway", "e2b-compat"),
        ({"system": "cubesandbox", "sdk": "http"}, LINUX, "cubesandbox", "e2b-latency"),
        ({"substrate": "noop"}, LINUX, "noop", "cold-start"),
    ],
)
def test_a_series_system_follows_from_its_record(
    dimensions: Facts, os: str, system: str, rig: str
) -> None:
    assert systems.of_series(dimensions, os, rig) == system


def test_a_claim_about_pf_rests_on_pf_where_it_was_measured() -> None:
    about = [one for one in CLAIMS if one.system == "pf"]
    assert len(about) >= 8
    for claim in about:
        for answer in claim.answers:
            judged = judge(claim, answer, Evidence([0.0] * 500, system="nftables")).verdict
            assert str(judged) not in OWN


def test_denial_by_default_is_answered_only_by_the_denial_check() -> None:
    (claim,) = [one for one in CLAIMS if one.id == "coppice-deny-by-default"]
    assert {answer.metric for answer in claim.answers} == {"denied-leaks"}
