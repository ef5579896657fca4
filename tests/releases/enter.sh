#!/bin/sh
# enter.sh ROOT COMMAND...: run COMMAND as root in the root file system ROOT, as on a separate machine.
# Started by run.py under `unshare` with new mount, PID, UTS, IPC and cgroup namespaces, as process 1
# of the PID namespace: when it ends, all processes and mounts end with it.
#
# The root is entered by pivot_root: the kernel refuses user namespaces to a process under chroot,
# and runc needs one. The network is the host's, because set-up installs packages.
set -eu

root=$1
shift

mount --make-rprivate /
mount --bind "$root" "$root"
hostname "coppice-$(basename -- "$root")"

mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"

# The host's control groups, seen from the new namespace: version 2, or a directory for each controller
# of version 1, as on the host.
grep -E ' - cgroup2? ' /proc/self/mountinfo | while read -r _ _ _ _ point rest; do
    kind=${rest#* - }
    options=${kind##* }
    kind=${kind%% *}
    case $point in
        /sys/fs/cgroup) mount -t "$kind" "$kind" "$root$point" ;;
        /sys/fs/cgroup/*)
            if ! mountpoint -q "$root/sys/fs/cgroup"; then
                mount -t tmpfs -o mode=755 tmpfs "$root/sys/fs/cgroup"
            fi
            mkdir -p "$root$point"
            if [ "$kind" = cgroup2 ]; then
                mount -t cgroup2 cgroup2 "$root$point"
            else
                mount -t cgroup -o "${options#rw,}" cgroup "$root$point"
            fi
            ;;
    esac
done

# A new /run, as on a real machine, instead of the directory with this machine's runs.
mount -t tmpfs -o mode=755,nosuid,nodev tmpfs "$root/run"

# Only the devices that a sandbox host uses; no disk of this machine.
mount -t tmpfs -o mode=755,nosuid tmpfs "$root/dev"
for node in null zero full random urandom tty kvm net/tun fuse; do
    [ -e "/dev/$node" ] || continue
    mkdir -p "$root/dev/$(dirname "$node")"
    touch "$root/dev/$node"
    mount --bind "/dev/$node" "$root/dev/$node"
done
# For containers with a disk image; the kernel chooses the loop device's number.
[ ! -e /dev/loop-control ] || mknod "$root/dev/loop-control" c 10 237
number=0
while [ $number -lt 64 ]; do
    mknod "$root/dev/loop$number" b 7 $number
    number=$((number + 1))
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
ln -s fd/0 "$root/dev/stdin"
ln -s fd/1 "$root/dev/stdout"
ln -s fd/2 "$root/dev/stderr"

# Directories in this machine's pip configuration.
for directory in ${COPPICE_RELEASE_DIRECTORIES:-}; do
    mkdir -p "$root$directory"
    mount --bind "$directory" "$root$directory"
    mount -o remount,bind,ro "$root$directory"
done
unset COPPICE_RELEASE_DIRECTORIES

mkdir -p "$root/.host"
cd "$root"
pivot_root . .host
umount -l /.host
rmdir /.host
cd /root
# Not exec: this shell stays process 1 and reaps orphaned processes.
"$@"
exit $?
