{
  description = "In the place of nixpkgs and of microvm.nix, where the flake is tested";

  outputs =
    { ... }:
    let
      lib = import ./lib.nix;
      pkgs = import ./pkgs.nix {
        inherit lib;
        minivmm = "/minivmm";
      };
    in
    {
      lib = lib // {
        nixosSystem =
          { modules, ... }:
          lib.evalModules {
            modules = [ ./nixos.nix ] ++ modules;
            specialArgs = { inherit pkgs; };
          };
      };
      legacyPackages.x86_64-linux = pkgs;
      nixosModules.microvm = ./microvm;
    };
}
