"""Containers run by runc, in four shapes."""

from harness.sandbox.oci.substrate import (
    OciSubstrate,
    oci_net,
    oci_net_overlay,
    oci_overlay,
    oci_raw,
)

__all__ = ["OciSubstrate", "oci_net", "oci_net_overlay", "oci_overlay", "oci_raw"]
