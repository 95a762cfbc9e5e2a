# What the guests' inits share, for the shells of busybox and Debian. The kernel starts each as PID 1, with the console
# as output.

export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

say() {
    echo "minivmm-guest: $*"
}

set_up() {
    mount -t proc -o nosuid,nodev,noexec proc /proc
    mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
    mount -t devtmpfs -o nosuid,noexec devtmpfs /dev
    mount -t tmpfs -o nosuid,nodev,noexec,mode=0755,size=10% tmpfs /run
    mount -t tmpfs -o nosuid,nodev,noexec,mode=1777,size=10% tmpfs /tmp
    load_modules
    ip link set lo up
    obey_command_line
    harden
}

# Those of an initramfs.
load_modules() {
    local module
    [ -e /modules/order ] || return 0
    while read -r module; do
        insmod "/modules/$module" || say "cannot load $module"
    done </modules/order
}

# What minivmm tells a guest, in the words that the kernel and systemd have for it.
obey_command_line() {
    local word
    configured=0
    set -f
    for word in $(cat /proc/cmdline); do
        case $word in
        ifname=*) cards="$cards ${word#ifname=}" ;;
        ip=*) configure_interface "${word#ip=}" ;;
        systemd.mount-extra=*) mount_extra "${word#systemd.mount-extra=}" ;;
        esac
    done
    set +f
}

# CLIENT:SERVER:GATEWAY:NETMASK:HOSTNAME:DEVICE:AUTOCONF[:DNS0[:DNS1]], as in the kernel's
# Documentation/admin-guide/nfs/nfsroot.rst; as with systemd, NETMASK may be the length of the prefix. Without a DEVICE
# the first one is meant, then the second, and so on. A DEVICE may be what an ifname= calls it.
configure_interface() {
    local IFS=: tries=100 server
    set -- $1
    IFS=' '
    local address=$1 gateway=$3 netmask=$4 name=$5 device=${6:-eth$configured} method=$7
    configured=$((configured + 1))
    case $address-$method in
    [0-9]*.*.*.*-off | [0-9]*.*.*.*-none | [0-9]*.*.*.*-) ;;
    *)
        say "ip=$*: only a fixed IPv4 address is understood"
        return
        ;;
    esac
    until find_card "$device"; do
        tries=$((tries - 1))
        if [ $tries = 0 ]; then
            say "there is no interface $device for the address $address"
            return
        fi
        sleep 0.05
    done
    device=$card
    ip address add "$address/${netmask:-24}" broadcast + dev "$device" && ip link set "$device" up ||
        say "cannot give $device the address $address"
    if [ -n "$gateway" ]; then
        ip route add default via "$gateway" dev "$device" || say "cannot reach the gateway $gateway"
    fi
    if [ -n "$name" ]; then
        hostname "$name"
    fi
    for server in $8 $9; do
        echo "nameserver $server" >>/etc/resolv.conf
    done
}

# Sets `card` to the interface that the kernel calls $1, or whose MAC address ifname=$1:MAC says, as in dracut.cmdline(7). It
# keeps the kernel's name.
find_card() {
    local named mac=
    for named in $cards; do
        case $named in
        "$1":*) mac=${named#*:} ;;
        esac
    done
    if [ -z "$mac" ]; then
        card=$1
        [ -e "/sys/class/net/$card" ]
        return
    fi
    card=$(ip -o link | sed -n "s|^[0-9]*: \([^:@]*\).* link/ether $mac .*|\1|p")
    [ -n "$card" ]
}

# WHAT:WHERE[:TYPE[:OPTIONS]], as in systemd-fstab-generator(8): a share by its tag, or a volume by its device.
mount_extra() {
    local IFS=:
    set -- $1
    mkdir -p "$2"
    if mount -t "${3:-virtiofs}" -o "nosuid,nodev${4:+,$4}" "$1" "$2"; then
        shares="$2 $shares"
    else
        say "cannot mount $1 on $2"
    fi
}

# An image that says how has this file.
harden() {
    [ -e /etc/sysctl.conf ] || return 0
    sysctl -e -q -p /etc/sysctl.conf >/dev/null
    ulimit -c 0
    mount -o remount,ro rootfs / || say "the root stays writable"
}

# For images whose data is on a share.
need_data() {
    if ! grep -q ' /data ' /proc/mounts; then
        say "there is no share on /data: what is written there is lost with the power"
        mount -t tmpfs -o nosuid,nodev,mode=0755 tmpfs /data
    fi
}

# Ends what still runs, gives the shares back to the host, and ends the machine: `leave poweroff` or `leave reboot`.
leave() {
    local share
    kill -KILL -1 2>/dev/null
    wait
    sync
    for share in $shares; do
        umount "$share" || say "$share is still in use"
    done
    "$1" -f
}
