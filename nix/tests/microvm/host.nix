# The options of microvm.nix' host module that say which VMs there are, and none of its units.
{ lib, ... }:

let
  inherit (lib) mkOption types;
  of =
    type: default:
    mkOption {
      inherit type default;
    };
in
{
  options.microvm = {
    host.enable = of types.bool true;
    stateDir = of types.path "/var/lib/microvms";
    vms = of (types.attrsOf (
      types.submodule {
        options = {
          config = of (types.nullOr types.unspecified) null;
          evaluatedConfig = of (types.nullOr types.unspecified) null;
          flake = of (types.nullOr types.unspecified) null;
        };
      }
    )) { };
  };
}
