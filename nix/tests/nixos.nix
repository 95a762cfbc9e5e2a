# The options of NixOS that microvm.nix' modules, ours and the VMs set, without what NixOS makes of them.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  inherit (lib) mkOption types;
  of =
    type: default:
    mkOption {
      inherit type default;
    };
  list = of (types.listOf types.str) [ ];
  set = of (types.attrsOf types.anything) { };
  bool = of types.bool;
in
{
  options = {
    assertions = of (types.listOf types.anything) [ ];
    warnings = list;

    boot = {
      blacklistedKernelModules = list;
      initrd = {
        availableKernelModules = list;
        kernelModules = list;
        systemd.enable = bool false;
        systemd.tpm2.enable = bool true;
      };
      kernel.sysctl = of (types.attrsOf (
        types.oneOf [
          types.int
          types.str
        ]
      )) { };
      kernelModules = list;
      kernelPackages = of types.anything pkgs.linuxPackages;
      kernelParams = list;
      kernelPatches = of (types.listOf types.anything) [ ];
      loader.grub.enable = bool true;
      postBootCommands = of types.lines "";
      swraid.enable = bool true;
    };

    documentation.enable = bool true;
    environment = {
      defaultPackages = of (types.listOf types.package) [ ];
      etc = set;
      systemPackages = of (types.listOf types.package) [ ];
    };
    fileSystems = set;
    hardware.ksm.enable = bool false;

    networking = {
      firewall = {
        allowedTCPPorts = of (types.listOf types.port) [ ];
        allowedUDPPorts = of (types.listOf types.port) [ ];
        enable = bool true;
      };
      hostId = of (types.nullOr types.str) null;
      hostName = of types.str "nixos";
      useDHCP = bool true;
      useNetworkd = bool false;
    };

    nix = {
      enable = bool true;
      optimise.automatic = bool false;
      package = of types.package pkgs.coreutils;
      settings.auto-optimise-store = bool false;
    };
    nixpkgs.overlays = of (types.listOf types.anything) [ ];
    programs.command-not-found.enable = bool true;

    security = {
      pam.loginLimits = of (types.listOf types.anything) [ ];
      sudo.enable = bool true;
      virtualisation.flushL1DataCache = of (types.nullOr types.str) null;
      wrappers = set;
    };

    services = {
      actual = {
        enable = bool false;
        openFirewall = bool false;
      };
      adguardhome = {
        enable = bool false;
        openFirewall = bool false;
      };
      getty.autologinUser = of (types.nullOr types.str) null;
      journald.extraConfig = of types.lines "";
      openssh = {
        enable = bool false;
        hostKeys = of (types.listOf types.anything) [ ];
        settings = set;
      };
      resolved.enable = bool true;
    };

    system = {
      activationScripts = set;
      boot.loader = {
        initrdFile = of types.str "initrd";
        kernelFile = of types.str "bzImage";
      };
      build = set;
      nixos.label = of types.str "test";
      stateVersion = of types.str "25.11";
      switch.enable = bool true;
    };

    systemd = {
      coredump.enable = bool true;
      generators = set;
      mounts = of (types.listOf types.anything) [ ];
      network = {
        networks = set;
        wait-online.enable = bool true;
      };
      services = set;
      sockets = set;
      targets = set;
      tmpfiles.settings = set;
      tpm2.enable = bool true;
    };

    users = {
      allowNoPasswordLogin = bool false;
      groups = set;
      mutableUsers = bool true;
      users = set;
    };
    virtualisation = {
      libvirtd.enable = bool false;
      rosetta = set;
    };
  };

  config = {
    boot.kernelParams = lib.optional config.boot.initrd.systemd.enable "root=fstab" ++ [ "loglevel=4" ];
    system.build = {
      toplevel =
        pkgs.runCommand "nixos-system-${config.networking.hostName}" { }
          "mkdir $out; touch $out/init";
      initialRamdisk = pkgs.runCommand "initrd" { } "mkdir $out; touch $out/initrd";
    };
  };
}
