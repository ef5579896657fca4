"""The contract of substrates, as a test class that packages with substrates inherit.

::

    from harness.testing import SubstrateContract

    class TestMine(SubstrateContract):
        substrate = "mine"
"""

from harness.testing.contract import SubstrateContract

__all__ = ["SubstrateContract"]
