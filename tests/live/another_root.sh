#!/bin/sh
# Run a script in a root of its own: a copy on write of this one, which is gone at the end.
# Usage: unshare --mount --pid --fork --kill-child another_root.sh DIRECTORY SCRIPT
# DIRECTORY's files are in /mnt there. A root by chroot(2) would do, but no user namespace can be made below one.
set -e
mount --make-rprivate /
mount -t tmpfs none /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work none /mnt/root
cd /mnt/root
mount --bind "$1" mnt
mount -t proc none proc
mount --rbind /dev dev
mount --rbind /sys sys
mount -t tmpfs none run
mount -t tmpfs none tmp
mkdir tmp/old
pivot_root . tmp/old
cd /
umount -l /tmp/old
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
unset POPNET_RUN_DIR POPNET_MACHINE XDG_RUNTIME_DIR PYTHONPATH
exec sh -ec "$2"
