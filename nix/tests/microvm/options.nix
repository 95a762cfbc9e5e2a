# The options that microvm.nix has for a VM, with the types and defaults that they have there.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  inherit (lib) mkOption types;
  inherit (types)
    attrsOf
    bool
    enum
    int
    lines
    listOf
    nullOr
    path
    port
    str
    ;
  cfg = config.microvm;
  inherit (config.networking) hostName;
  positive = types.ints.positive;
  unsigned = types.ints.unsigned;

  # With a default and without.
  of =
    type: default:
    mkOption {
      inherit type default;
    };
  some = type: mkOption { inherit type; };
  submodules = options: of (listOf (types.submodule { inherit options; })) [ ];
  package = default: of types.package default;
  others = mkOption {
    type = attrsOf types.anything;
    default = { };
  };
in
{
  options.microvm = {
    guest.enable = of bool true;
    optimize.enable = of bool true;
    cpu = of (nullOr str) null;
    hypervisor = of (enum [
      "qemu"
      "cloud-hypervisor"
    ]) "qemu";
    preStart = of lines "";
    extraArgsScript = of (nullOr str) null;
    socket = of (nullOr str) "${hostName}.sock";
    user = of (nullOr str) null;
    kernel = package config.boot.kernelPackages.kernel;
    initrdPath = of path "${config.system.build.initialRamdisk}/${config.system.boot.loader.initrdFile}";
    vcpu = of positive 1;
    mem = of positive 512;
    hugepageMem = of bool false;
    hotplugMem = of unsigned 0;
    hotpluggedMem = of unsigned cfg.hotplugMem;
    balloon = of bool false;
    initialBalloonMem = of unsigned 0;
    deflateOnOOM = of bool true;

    forwardPorts = submodules {
      from = of (enum [
        "host"
        "guest"
      ]) "host";
      proto = of (enum [
        "tcp"
        "udp"
      ]) "tcp";
      host.address = of str "";
      host.port = some port;
      guest.address = of str "";
      guest.port = some port;
    };

    volumes = submodules {
      image = some str;
      serial = of (nullOr str) null;
      direct = of bool false;
      readOnly = of bool false;
      label = of (nullOr str) null;
      mountPoint = some (nullOr path);
      size = some int;
      autoCreate = of bool true;
      mkfsExtraArgs = of (listOf str) [ ];
      fsType = of str "ext4";
      imageType = of (enum [
        "raw"
        "qcow2"
        "vhd"
        "vhdx"
      ]) "raw";
    };

    interfaces = submodules {
      type = some (enum [
        "user"
        "tap"
        "macvtap"
        "bridge"
      ]);
      id = some str;
      macvtap.link = some str;
      macvtap.mode = some (enum [
        "private"
        "vepa"
        "bridge"
        "passthru"
        "source"
      ]);
      bridge = of (nullOr str) null;
      mac = some str;
      tap.vhost = of bool false;
    };

    shares = of (listOf (
      types.submodule (
        { config, ... }:
        {
          options = {
            tag = some str;
            socket = of (nullOr str) (
              if config.proto == "virtiofs" then "${hostName}-virtiofs-${config.tag}.sock" else null
            );
            source = some types.nonEmptyStr;
            securityModel = of (enum [
              "passthrough"
              "none"
              "mapped"
              "mapped-file"
            ]) "none";
            mountPoint = some path;
            proto = of (enum [
              "9p"
              "virtiofs"
            ]) "9p";
            readOnly = of bool false;
            cache = of (enum [
              "auto"
              "always"
              "metadata"
              "never"
            ]) "auto";
            posixAcl = of bool true;
            extraArgs = of (listOf str) [ ];
          };
        }
      )
    )) [ ];

    devices = submodules {
      bus = some (enum [
        "pci"
        "usb"
      ]);
      path = some str;
      qemu = {
        id = of (nullOr str) null;
        bus = of (nullOr str) null;
        deviceExtraArgs = of (nullOr str) null;
      };
    };

    vsock.cid = of (nullOr int) null;
    vsock.ssh.enable = of bool false;
    registerWithMachined = of bool false;
    machineId = of (nullOr str) (
      let
        hash = builtins.hashString "sha256" "microvm.nix:${hostName}";
        part = first: length: builtins.substring first length hash;
      in
      "${part 0 8}-${part 8 4}-${part 12 4}-${part 16 4}-${part 20 12}"
    );
    kernelParams = some (listOf str);
    storeOnDisk = of bool (!lib.any (share: share.source == "/nix/store") cfg.shares);
    storeDisk = some path;
    storeDiskType = of (enum [
      "squashfs"
      "erofs"
    ]) "erofs";
    storeDiskErofsFlags = of (listOf str) [ "-zlz4hc" ];
    storeDiskSquashfsFlags = of (listOf str) [ ];
    bootDisk = some path;
    registerClosure = of bool cfg.guest.enable;
    writableStoreOverlay = of (nullOr str) null;
    systemSymlink = of bool (!cfg.storeOnDisk);
    credentialFiles = of (attrsOf path) { };
    prettyProcnames = of bool true;
    vmHostPackages = of types.pkgs pkgs;

    graphics = {
      enable = of bool false;
      backend = of (enum [
        "gtk"
        "cocoa"
        "headless"
      ]) "gtk";
      socket = of str "${hostName}-gpu.sock";
      hostmem = of str "256M";
    };

    virtiofsd = {
      package = package cfg.vmHostPackages.virtiofsd;
      group = of (nullOr str) "kvm";
      inodeFileHandles = of (nullOr (enum [
        "never"
        "prefer"
        "mandatory"
      ])) "prefer";
      threadPoolSize = of (types.oneOf [
        str
        unsigned
      ]) "`nproc`";
      extraArgs = of (listOf str) [ ];
    };

    cloud-hypervisor.platformOEMStrings = of (listOf str) [ ];
    cloud-hypervisor.extraArgs = of (listOf str) [ ];
    qemu = others;
    crosvm = others;
    firecracker = others;
    kvmtool = others;
    stratovirt = others;
    alioth = others;
    vfkit = others;

    binScripts = of (attrsOf lines) { };
    runner = some (attrsOf types.package);
    declaredRunner = package cfg.runner.${cfg.hypervisor};
  };
}
