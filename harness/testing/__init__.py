"""For packages that add substrates: the checks that ours pass, as a test class to inherit.

::

    from harness.testing import SubstrateContract

    class TestMine(SubstrateContract):
        substrate = "mine"
"""

from harness.testing.contract import SubstrateContract

__all__ = ["SubstrateContract"]
