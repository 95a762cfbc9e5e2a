# The package that microvm.nix' host module and its command `microvm` expect of a hypervisor, made of the runner: scripts in
# bin/, and in share/microvm what others want to know of the VM.
{
  pkgs,
  microvmConfig,
  toplevel,
}:

let
  inherit (pkgs) lib;
  inherit (microvmConfig)
    hostName
    hypervisor
    vmHostPackages
    interfaces
    volumes
    vsock
    ;
  inherit (lib) concatMapStrings escapeShellArg optionalString;

  macvtap = import ./macvtap.nix { inherit lib; } {
    inherit microvmConfig;
    queues = if runner.tapMultiQueue then microvmConfig.vcpu else 1;
  };

  runner = import ./runner.nix {
    inherit pkgs microvmConfig;
    macvtapFds = macvtap.fds;
    linuxTarget = pkgs.linux.target or pkgs.stdenv.hostPlatform.linux-kernel.target;
  };

  # Whether there are arguments that are not known before it starts.
  isAsked = microvmConfig.extraArgsScript != null;

  scripts =
    microvmConfig.binScripts
    // {
      # What is refused comes before what it would lead to.
      microvm-run = builtins.seq runner.command ''
        set -euo pipefail
        ${microvmConfig.preStart}
        ${import ./volumes.nix { pkgs = vmHostPackages; } volumes}
        ${macvtap.open}
        ${optionalString isAsked ''
          line=$(${microvmConfig.extraArgsScript})
          read -r -a runtime_args <<<"$line"
        ''}
        exec ${
          lib.concatStringsSep " " (
            lib.optional microvmConfig.prettyProcnames "-a ${escapeShellArg "microvm@${hostName}"}"
            ++ [ runner.command ]
            ++ lib.optional isAsked ''"''${runtime_args[@]}"''
          )
        }
      '';
    }
    // lib.optionalAttrs runner.canShutdown { microvm-shutdown = runner.shutdownCommand; }
    // lib.optionalAttrs (runner.setBalloonScript != null) {
      microvm-balloon = ''
        set -euo pipefail
        if [ $# != 1 ]; then
          echo "Usage: $0 BALLOON-SIZE-MB" >&2
          exit 1
        fi
        SIZE=$1
        ${runner.setBalloonScript}
      '';
    }
    // lib.optionalAttrs microvmConfig.registerWithMachined (
      import ./machined.nix {
        pkgs = vmHostPackages;
        inherit microvmConfig;
      }
    );

  programs = lib.mapAttrs (
    name: vmHostPackages.writeShellScript "microvm-${hostName}-${name}"
  ) scripts;

  lines = concatMapStrings (line: "${line}\n");
  ofType = type: lib.filter (interface: interface.type == type) interfaces;

  # What is in share/microvm, but for the system.
  files = {
    inherit hypervisor;
    tap-flags = lines ([ "vnet_hdr" ] ++ lib.optional runner.tapMultiQueue "multi_queue");
    tap-interfaces = lines (map ({ id, ... }: id) (ofType "tap"));
    macvtap-interfaces = lines (
      map (
        {
          id,
          mac,
          macvtap,
          ...
        }:
        "${id} ${mac} ${macvtap.link} ${macvtap.mode}"
      ) (ofType "macvtap")
    );
    vsock-cid = optionalString (vsock.cid != null) "${toString vsock.cid}\n";
  }
  // builtins.listToAttrs (
    lib.concatMap (
      {
        tag,
        socket,
        source,
        ...
      }:
      [
        {
          name = "virtiofs/${tag}/socket";
          value = "${socket}\n";
        }
        {
          name = "virtiofs/${tag}/source";
          value = "${source}\n";
        }
      ]
    ) microvmConfig.shares
  );
in
vmHostPackages.buildPackages.runCommand "microvm-${hypervisor}-${hostName}"
  {
    meta.mainProgram = "microvm-run";
    passthru = {
      inherit (runner)
        canShutdown
        supportsNotifySocket
        tapMultiQueue
        settings
        ;
      inherit (microvmConfig) registerWithMachined machineId;
      inherit hypervisor;
    };
  }
  ''
    mkdir -p $out/bin $out/share/microvm
    ${concatMapStrings (name: ''
      ln -s ${programs.${name}} $out/bin/${name}
    '') (builtins.attrNames programs)}
    ${optionalString microvmConfig.systemSymlink "ln -s ${toplevel} $out/share/microvm/system"}
    ${concatMapStrings (
      name:
      optionalString (files.${name} != "") ''
        mkdir -p $out/share/microvm/${dirOf name}
        printf %s ${escapeShellArg files.${name}} >$out/share/microvm/${name}
      ''
    ) (builtins.attrNames files)}
  ''
