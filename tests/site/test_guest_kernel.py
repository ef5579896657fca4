"""Records of guests with a kernel of choice never stand for those of the usual kernel."""

from __future__ import annotations

import dataclasses

from harness.claims import claims
from harness.measure.record import RunRecord
from harness.site.data import comparison_table, corpus, evidence, network
from harness.site.data.corpus import Corpus
from harness.site.data.essays import Lookup
from tests.site import factory, kvm_factory
from tests.site.test_proofs import _FIGURE

CHOSEN = "guest_kernel"


def _corpus(*records: RunRecord) -> Corpus:
    entries = [corpus.entry_of(one, f"runs/a/{at}") for at, one in enumerate(records)]
    return Corpus(entries, (), (), today=entries[-1].date)


def _slim(one: RunRecord) -> RunRecord:
    """The same, newer and quicker, of guests with a slim kernel; the host's series stay."""
    series = tuple(
        dataclasses.replace(each, dimensions={**each.dimensions, CHOSEN: "slim"})
        if each.dimensions.get("path") != "loopback"
        else each
        for each in kvm_factory.scaled(one, 0.5).series
    )
    return dataclasses.replace(one, series=series, run_id="20261130T120000Z-0a0a0a0a")


def _rtt() -> RunRecord:
    paths = ("loopback", "microvm")
    return factory.of_rig("net-rtt", *(factory.timing("rtt", 1e-5, path=one) for one in paths))


def _function_only(one: RunRecord) -> RunRecord:
    host = dataclasses.replace(one.machine, function_only="made up")
    return dataclasses.replace(one, machine=host)


def test_a_page_takes_the_record_of_the_usual_kernel() -> None:
    usual = _rtt()
    both = _corpus(usual, _slim(usual))
    shown = network.newest(both, "net-rtt")
    assert shown and shown.entry.summary.run_id == usual.run_id
    assert len(both.of_rig("net-rtt", both.machine, any_kernel=True)) == 2
    assert network.newest(_corpus(_slim(usual)), "net-rtt") is None
    newest = list(both.newest("net-rtt", both.machine, "rtt"))
    assert all(CHOSEN not in one.dimensions for _, _, one in newest)
    every = both.newest("net-rtt", both.machine, "rtt", any_kernel=True)
    assert [one for _, _, one in every if CHOSEN in one.dimensions]


def test_an_essay_names_the_kernel_that_it_means() -> None:
    usual = _rtt()
    look = Lookup(_corpus(usual, _slim(usual)))
    plain = look.series("net-rtt", "rtt", path="microvm")
    assert plain and plain[0].summary.run_id == usual.run_id
    named = look.series("net-rtt", "rtt", path="microvm", guest_kernel="slim")
    assert named and named[1].dimensions[CHOSEN] == "slim"


def test_what_proves_a_function_is_of_the_usual_kernel() -> None:
    usual = _function_only(_rtt())
    both = _corpus(usual, _slim(usual))
    found = Lookup(both).proof("net-rtt", "rtt", path="microvm")
    assert found and found[0].summary.run_id == usual.run_id
    where = {"path": "microvm"}
    answer = claims.Answer("net-rtt", "rtt", "p50", "at-most", False, "t", "t", where=where)
    claim = claims.Claim("made-up", "t", "q", _FIGURE, "u", "qemu", [answer])
    (proof,) = evidence.proofs(both, claim)
    assert proof.entry.summary.run_id == usual.run_id
    assert Lookup(_corpus(_slim(usual))).proof("net-rtt", "rtt", path="microvm") is None
    assert not evidence.proofs(_corpus(_slim(usual)), claim)


def test_a_comparison_has_no_figure_of_a_kernel_of_choice() -> None:
    only = _corpus(_slim(factory.cold_start("durable-pool")))
    cells = [cell for row in comparison_table.rows(only) for cell in row.cells]
    assert not any(cell.measured or cell.proved for cell in cells)


def test_a_record_names_its_guests_kernel() -> None:
    usual = factory.cold_start("durable-pool")
    assert corpus.entry_of(usual, "runs/a/1").summary.guest_kernel is None
    assert corpus.entry_of(_slim(usual), "runs/a/2").summary.guest_kernel == "slim"
