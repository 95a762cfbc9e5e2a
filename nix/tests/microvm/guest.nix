# What microvm.nix' guest module makes of its options, as far as a hypervisor's runner has to do with it.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  cfg = config.microvm;
  inherit (lib) concatMapStrings getExe getExe';
  ofType = type: builtins.filter (interface: interface.type == type) cfg.interfaces;
  taps = ofType "tap";
  macvtaps = ofType "macvtap";
  virtiofs = builtins.filter (share: share.proto == "virtiofs") cfg.shares;
  ip = getExe' pkgs.iproute2 "ip";
  multi_queue = lib.optionalString cfg.declaredRunner.passthru.tapMultiQueue " multi_queue";
  remove = { id, ... }: ''
    ${ip} link delete '${id}'
  '';
  clear = interface: ''
    if [ -e /sys/class/net/${interface.id} ]; then
      ${remove interface}
    fi
  '';
in
{
  config = {
    boot.initrd.systemd.enable = lib.mkDefault (cfg.hypervisor == "qemu");
    boot.kernelParams = lib.optional cfg.optimize.enable "8250.nr_uarts=1";

    microvm = {
      kernelParams =
        config.boot.kernelParams
        ++ [ "init=${config.system.build.toplevel}/init" ]
        ++ lib.optional cfg.registerClosure "regInfo=${pkgs.closureInfo { }}/registration";

      # Those of others would be made here.
      runner.qemu = pkgs.writeText "microvm-qemu-${config.networking.hostName}" "";

      binScripts = lib.mkMerge [
        (lib.mkIf (taps != [ ]) {
          tap-up =
            "set -eu\n"
            + concatMapStrings (
              interface:
              clear interface
              + ''
                ${ip} tuntap add name '${interface.id}' mode tap user microvm vnet_hdr${multi_queue}
                ${ip} link set '${interface.id}' up
              ''
            ) taps;
          tap-down = "set -u\n" + concatMapStrings remove taps;
        })
        (lib.mkIf (macvtaps != [ ]) {
          macvtap-up =
            "set -eu\n"
            + concatMapStrings (
              interface:
              let
                inherit (interface) id mac macvtap;
              in
              clear interface
              + ''
                ${ip} link add link '${macvtap.link}' name '${id}' address '${mac}' type macvtap mode '${macvtap.mode}'
                ${ip} link set '${id}' up
                ${getExe' pkgs.coreutils "chown"} microvm:kvm "/dev/tap$(< "/sys/class/net/${id}/ifindex")"
              ''
            ) macvtaps;
          macvtap-down = "set -u\n" + concatMapStrings remove macvtaps;
        })
        (lib.mkIf (virtiofs != [ ]) {
          # One program after the other instead of a supervisor.
          virtiofsd-run =
            concatMapStrings (
              {
                tag,
                socket,
                source,
                readOnly,
                cache,
                ...
              }:
              ''
                # ${tag}
                ${getExe cfg.virtiofsd.package} --socket-path='${socket}' --socket-group=kvm --shared-dir='${source}' \
                  --cache=${cache}${lib.optionalString readOnly " --readonly"} &
              ''
            ) virtiofs
            + "${getExe' pkgs.systemd "systemd-notify"} --ready\nexec ${getExe' pkgs.coreutils "sleep"} infinity\n";
        })
      ];
    };
  };
}
