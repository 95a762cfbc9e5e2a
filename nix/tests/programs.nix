# Programs of nixpkgs' packages that scripts name, as this machine has them: package by package those that are used.
[
  "btrfs-progs"
  "coreutils"
  "coreutils-full"
  "dosfstools"
  "e2fsprogs"
  "iproute2"
  "kmod"
  "systemd"
  "virtiofsd"
  "xfsprogs"
]
