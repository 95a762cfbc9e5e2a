# VMs that run where KVM is able: a guest of the tests instead of a NixOS, and its share and tap if it has them.
{
  name,
  # A directory with bzImage and initrd.
  guest,
  # For its kernel, behind what NixOS says.
  words,
  vcpu ? 2,
  mem ? 256,
  # A virtiofsd, as /DIRECTORY/bin/virtiofsd.
  virtiofsd ? null,
  macvtapLink ? null,
  minivmm ? { },
}:
{ lib, pkgs, ... }:

let
  kernel = {
    type = "derivation";
    name = "guest";
    outPath = guest;
    out = kernel;
  };
in
{
  networking.hostName = name;

  microvm = {
    hypervisor = "minivmm";
    inherit vcpu mem kernel;
    minivmm = {
      extraArgs = [
        "--log"
        "warn"
      ];
    }
    // minivmm;
    initrdPath = "${guest}/initrd";
    kernelParams = [ words ];
    # Of an option that is said twice the last one counts.
    extraArgsScript = "echo --log debug";

    interfaces =
      lib.optional (virtiofsd != null) {
        type = "tap";
        id = "vm-${name}";
        mac = "02:00:00:00:00:01";
      }
      ++ lib.optional (macvtapLink != null) {
        type = "macvtap";
        id = "mac-${name}";
        mac = "02:00:00:00:00:02";
        macvtap.link = macvtapLink;
        macvtap.mode = "bridge";
      };

    shares = lib.optional (virtiofsd != null) {
      tag = "data";
      source = "/var/lib/${name}";
      mountPoint = "/data";
      proto = "virtiofs";
    };
    virtiofsd.package = lib.mkIf (virtiofsd != null) (pkgs.virtiofsd // { outPath = virtiofsd; });

    volumes = lib.optional (macvtapLink != null) {
      image = "var.img";
      label = "var";
      serial = "var-0";
      mountPoint = null;
      size = 16;
    };
  };
}
