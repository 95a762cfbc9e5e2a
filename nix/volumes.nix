# The part of microvm-run that makes the images which are missing: sparse, and with a file system. A name that is there is an
# image that was finished.
{ pkgs }:
volumes:

let
  inherit (pkgs) lib;
  inherit (lib) escapeShellArg escapeShellArgs getExe';
  coreutils = getExe' pkgs.coreutils;
  make = {
    ext2 = getExe' pkgs.e2fsprogs "mkfs.ext2";
    ext3 = getExe' pkgs.e2fsprogs "mkfs.ext3";
    ext4 = getExe' pkgs.e2fsprogs "mkfs.ext4";
    xfs = getExe' pkgs.xfsprogs "mkfs.xfs";
    btrfs = getExe' pkgs.btrfs-progs "mkfs.btrfs";
    vfat = getExe' pkgs.dosfstools "mkfs.vfat";
  };
in
lib.concatMapStrings (
  {
    image,
    label,
    size,
    mkfsExtraArgs,
    fsType,
    ...
  }:
  let
    new = escapeShellArg "${image}.new";
    labelled = lib.optionals (label != null) [
      (if fsType == "vfat" then "-n" else "-L")
      label
    ];
  in
  ''
    if [ ! -e ${escapeShellArg image} ]; then
      ${coreutils "rm"} -f ${new}
      ${coreutils "touch"} ${new}
      # Without copying on write, where the file system knows that.
      ${getExe' pkgs.e2fsprogs "chattr"} +C ${new} 2>/dev/null || true
      ${coreutils "truncate"} -s ${toString size}M ${new}
      ${make.${fsType}} ${escapeShellArgs (labelled ++ mkfsExtraArgs)} ${new}
      ${coreutils "mv"} ${new} ${escapeShellArg image}
    fi
  ''
) (builtins.filter (volume: volume.autoCreate) volumes)
