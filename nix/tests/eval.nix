# Evaluates VMs, and a host of theirs, as NixOS would: with what is in this directory, or with checkouts of nixpkgs' lib
# and of microvm.nix.
{
  minivmm,
  virtiofsd ? "/usr",
  nixpkgsLib ? null,
  microvmNix ? null,
}:

let
  # nixpkgs' lib takes it for granted that Nix is newer than Debian's.
  newer = {
    builtins = {
      addDrvOutputDependencies = text: text;
      convertHash = throw "builtins.convertHash: this Nix is too old";
      warn = message: value: builtins.trace "evaluation warning: ${message}" value;
    }
    // builtins;
    import = scopedImport newer;
  };

  lib = if nixpkgsLib == null then import ./lib.nix else scopedImport newer nixpkgsLib;
  pkgs = import ./pkgs.nix { inherit lib minivmm virtiofsd; };
  guestModule = if microvmNix == null then ./microvm else microvmNix + "/nixos-modules/microvm";
  hostModule = if microvmNix == null then ./microvm/host.nix else microvmNix + "/nixos-modules/host";
  evaluated =
    modules:
    lib.evalModules {
      modules = [ ./nixos.nix ] ++ modules;
      specialArgs = { inherit pkgs; };
    };

  # A closure is not to be had here: the disk with the store is an empty one.
  emptyStore =
    { config, ... }:
    {
      microvm.storeDisk = lib.mkIf config.microvm.storeOnDisk (
        lib.mkForce (pkgs.runCommand "microvm-store-disk.erofs" { } "truncate -s 64K $out")
      );
    };

  vm =
    module:
    (evaluated [
      guestModule
      emptyStore
      ../module.nix
      module
    ]).config;
in
{
  inherit lib pkgs vm;

  # Of a file in vms/, or of a module.
  runner = module: (vm module).microvm.declaredRunner;

  # Where microvm.nix has minivmm itself.
  upstreamRunner =
    module:
    (evaluated [
      guestModule
      emptyStore
      module
    ]).config.microvm.declaredRunner;

  host =
    vms: module:
    (evaluated [
      hostModule
      ../host.nix
      module
      {
        microvm.vms = builtins.mapAttrs (_: module: {
          evaluatedConfig.config = vm module;
        }) vms;
      }
    ]).config;
}
