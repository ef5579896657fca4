"""The contract of every substrate: pytest examples/coppice-unshare"""

from harness.testing import SubstrateContract


class TestUnshare(SubstrateContract):
    substrate = "unshare"
    own_names = ("hostname",)  # the host's files are its files, the machine id too
