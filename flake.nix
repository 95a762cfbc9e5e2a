{
  description = "minivmm, and what runs NixOS VMs of microvm.nix on it";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";
    microvm = {
      url = "github:microvm-nix/microvm.nix";
      inputs.nixpkgs.follows = "nixpkgs";
    };
  };

  outputs =
    {
      self,
      nixpkgs,
      microvm,
      ...
    }:
    let
      system = "x86_64-linux";
      pkgs = nixpkgs.legacyPackages.${system};

      vm =
        service:
        nixpkgs.lib.nixosSystem {
          inherit system;
          modules = [
            microvm.nixosModules.microvm
            self.nixosModules.default
            service
          ];
        };
    in
    {
      nixosModules = {
        # For a VM, beside microvm.nixosModules.microvm.
        default = self.nixosModules.minivmm;
        minivmm = ./nix/module.nix;
        # For the host, beside microvm.nixosModules.host.
        host = ./nix/host.nix;
      };

      packages.${system} = {
        default = self.packages.${system}.minivmm;
        minivmm = pkgs.callPackage ./nix/package.nix { };
      };

      overlays.default = final: _prev: {
        minivmm = final.callPackage ./nix/package.nix { };
      };

      nixosConfigurations = {
        adguard-vm = vm ./nix/vms/adguard.nix;
        actual-vm = vm ./nix/vms/actual.nix;
      };
    };
}
