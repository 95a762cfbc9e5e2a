# Adds minivmm to the hypervisors of microvm.nix, which stays as it is: import this beside its guest module, and say
# `microvm.hypervisor = "minivmm"`.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  inherit (lib) mkOption types;
  cfg = config.microvm;
in
{
  options.microvm = {
    # Merged with microvm.nix' own declaration.
    hypervisor = mkOption { type = types.enum [ "minivmm" ]; };

    minivmm = {
      package = mkOption {
        type = types.package;
        default = cfg.vmHostPackages.callPackage ./package.nix { };
        defaultText = lib.literalExpression "minivmm, built from its source";
        description = "The minivmm that runs the VM.";
      };

      ready = mkOption {
        type = types.enum [
          "vcpus"
          "guest"
        ];
        default = if cfg.vsock.cid == null then "vcpus" else "guest";
        defaultText = lib.literalExpression ''if config.microvm.vsock.cid == null then "vcpus" else "guest"'';
        description = ''
          When microvm@NAME.service counts as started: when the vCPUs run, or when the guest's systemd says that it is
          up.
        '';
      };

      vsock.allow = mkOption {
        type = types.listOf types.str;
        default = lib.optional cfg.vsock.ssh.enable "ssh";
        defaultText = lib.literalExpression ''lib.optional config.microvm.vsock.ssh.enable "ssh"'';
        example = [
          "ssh"
          "guest:1024"
          "host:9000"
        ];
        description = ''
          What may be connected to over vsock: `guest:PORT` by programs of the host, `host:PORT` by the guest; `ssh` is
          `guest:22`. The guest's systemd can always say that it is up.
        '';
      };

      extraArgs = mkOption {
        type = types.listOf types.str;
        default = [ ];
        example = [
          "--log"
          "debug"
        ];
        description = "Further arguments of `minivmm run`.";
      };

      settings = mkOption {
        # TOML has no null; JSON has, and is what the file is made from.
        inherit (pkgs.formats.json { }) type;
        default = { };
        example = lib.literalExpression ''
          {
            lifecycle.watchdog = "30s";
            interfaces.vm-adguard.mtu = 9000;
          }
        '';
        description = ''
          Added to minivmm's configuration (docs/config.md), and stronger than what follows from the other options; null
          takes a key away. Interfaces, shares, volumes and credentials are named by their id, tag, image and name.
        '';
      };

      checkConfig = mkOption {
        type = types.bool;
        default = true;
        description = "Whether minivmm checks the configuration when the VM is built.";
      };

      credentialsInInitrd = mkOption {
        type = types.bool;
        default = false;
        description = ''
          Whether the guest has its credentials (`microvm.credentialFiles`) in its initrd already, as for a volume's key.
        '';
      };
    };
  };

  config = lib.mkMerge [
    {
      microvm.runner.minivmm = import ./package-runner.nix {
        inherit pkgs;
        microvmConfig = cfg // {
          inherit (config.networking) hostName;
          hypervisor = "minivmm";
        };
        inherit (config.system.build) toplevel;
      };
    }
    (lib.mkIf (cfg.hypervisor == "minivmm") {
      # `microvm -l` ends at the first VM without it. It is read on the host and takes no room in the VM.
      microvm.systemSymlink = lib.mkDefault true;

      # microvm.nix says so for those that it knows, and says false, as a default, for all others.
      boot.initrd.systemd = lib.mkIf (cfg.guest.enable && cfg.optimize.enable) {
        enable = lib.mkOverride 999 true;
      };

      # systemd looks for credentials in the SMBIOS tables by this module.
      boot.initrd.availableKernelModules = lib.optional cfg.minivmm.credentialsInInitrd "dmi_sysfs";
    })
  ];
}
