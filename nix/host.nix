# What the units of microvm.nix' host module lack: a VM's service sees its own directory and its devices and no more, is told
# from a VM that hangs, and only minivmm's word counts to systemd. docs/systemd.md has the reasons line by line.
{
  config,
  lib,
  ...
}:

let
  inherit (lib) mkOption types;
  cfg = config.microvm;

  guest =
    name:
    let
      vm = cfg.vms.${name};
    in
    if vm.flake != null then
      vm.flake.nixosConfigurations.${name}.config
    else if vm.evaluatedConfig != null then
      vm.evaluatedConfig.config
    else
      vm.config.config;

  isOurs = name: (guest name).microvm.hypervisor == "minivmm";

  # Images elsewhere than in the VM's directory.
  images =
    name: map (volume: volume.image) (if cfg.vms ? ${name} then (guest name).microvm.volumes else [ ]);
  isDevice = lib.hasPrefix "/dev/";
  isFile = image: lib.hasPrefix "/" image && !isDevice image;

  hardened = name: {
    name = "microvm@${name}";
    value = {
      overrideStrategy = "asDropin";
      serviceConfig = {
        # SIGTERM is the supervisor's, and what microvm-run starts before it ends with it.
        KillMode = "mixed";
        NotifyAccess = "main";
        WatchdogSec = "60s";
        WatchdogSignal = "SIGKILL";
        OOMPolicy = "continue";
        UMask = "0077";
        LimitCORE = 0;

        CapabilityBoundingSet = "";
        DevicePolicy = "closed";
        DeviceAllow = [
          "/dev/kvm rw"
          "/dev/net/tun rw"
          "/dev/vhost-net rw"
          "char-macvtap rw"
        ]
        ++ map (image: "${image} rw") (builtins.filter isDevice (images name));
        KeyringMode = "private";
        LockPersonality = true;
        MemoryDenyWriteExecute = true;
        NoNewPrivileges = true;
        PrivateTmp = true;
        ProtectClock = true;
        ProtectControlGroups = true;
        ProtectHome = true;
        ProtectHostname = true;
        ProtectKernelLogs = true;
        ProtectKernelModules = true;
        ProtectKernelTunables = true;
        ProtectSystem = "strict";
        ReadWritePaths = [ "${cfg.stateDir}/${name}" ] ++ map dirOf (builtins.filter isFile (images name));
        # Other VMs' directories have the same owner.
        TemporaryFileSystem = "${cfg.stateDir}:ro";
        BindPaths = "${cfg.stateDir}/${name}";
        RestrictAddressFamilies = "AF_UNIX";
        RestrictNamespaces = "ipc mnt net pid user uts";
        RestrictRealtime = true;
        RestrictSUIDSGID = true;
        SystemCallArchitectures = "native";
        SystemCallErrorNumber = "EPERM";
        SystemCallFilter = "~@clock @cpu-emulation @debug @module @obsolete @raw-io @reboot @swap";
      };
    };
  };
in
{
  options.microvm.minivmm.hardenedVms = mkOption {
    type = types.listOf types.str;
    default = builtins.filter isOurs (builtins.attrNames cfg.vms);
    defaultText = lib.literalExpression "those of microvm.vms that minivmm runs";
    description = ''
      The VMs whose services are hardened. Those that were made with `microvm -c` are not known here and are added by name.
    '';
  };

  config = lib.mkIf cfg.host.enable {
    systemd.services = builtins.listToAttrs (map hardened cfg.minivmm.hardenedVms);
  };
}
