"""FreeBSD jails in four shapes: a root copied or cloned by ZFS, with or without a network."""

from harness.sandbox.jail.substrate import (
    jail_raw,
    jail_vnet_pf,
    jail_vnet_zfs_clone,
    jail_zfs_clone,
)

__all__ = ["jail_raw", "jail_vnet_pf", "jail_vnet_zfs_clone", "jail_zfs_clone"]
