# Packages of nixpkgs whose programs are in scripts, as this machine has them; the second ones only in microvm.nix' own.
[
  "btrfs-progs"
  "coreutils"
  "iproute2"
  "systemd"
  "virtiofsd"
  "xfsprogs"
]
++ [
  "coreutils-full"
  "gawk"
  "gnused"
  "jq"
  "kmod"
  "python3"
  "qemu"
  "qemu-utils"
  "qemu_kvm"
  "socat"
]
