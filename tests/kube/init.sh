#!/usr/bin/env bash
# The first process of the cluster's namespaces: init.sh WORK ADDRESS NODE. When it ends, all in them ends.
set -euo pipefail
work=$1 address=$2 node=$3

mount --make-rshared /
mkdir -p /run/containerd /run/netns /var/lib/containerd /var/lib/kubelet /etc/cni/net.d /var/lib/cni /var/log/pods /var/log/containers
mount -t tmpfs tmpfs /run/containerd
mount -t tmpfs tmpfs /run/netns
while read -r name path; do
    mkdir -p "$work/node/$name"
    mount --bind "$work/node/$name" "$path"
done <<END
containerd /var/lib/containerd
kubelet /var/lib/kubelet
cni-conf /etc/cni/net.d
cni /var/lib/cni
pods /var/log/pods
containers /var/log/containers
END
mount --make-rshared /var/lib/kubelet

# The kubelet sets what the whole machine shares, unless it finds it set: it finds files with these values, and
# may not write the rest.
mkdir -p "$work/sysctl"
for tree in vm kernel; do
    mount --bind "/proc/sys/$tree" "/proc/sys/$tree"
    mount -o remount,bind,ro "/proc/sys/$tree"
done
while read -r path value; do
    echo "$value" >"$work/sysctl/${path#*/}"
    mount --bind "$work/sysctl/${path#*/}" "/proc/sys/$path"
done <<END
vm/overcommit_memory 1
kernel/panic 10
kernel/panic_on_oops 1
END

hostname "$node"
ip link set lo up
ip link add node0 type bridge
ip addr add "$address/24" dev node0
ip link set node0 up
ip route add default dev node0
echo 1 >/proc/sys/net/ipv4/ip_forward

trap 'exit 0' TERM
touch "$work/up"
while :; do
    sleep 2 &
    wait $! || true
done
