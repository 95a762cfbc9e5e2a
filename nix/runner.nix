# minivmm as a hypervisor of microvm.nix, in the shape of its lib/runners/NAME.nix: it is given the VM's configuration and
# says by which commands the VM runs, stops and changes its size. `package-runner.nix` makes a package of it where
# microvm.nix does not know minivmm; in microvm.nix itself lib/runner.nix would.
{
  pkgs,
  microvmConfig,
  macvtapFds,
  linuxTarget,
  ...
}:

let
  inherit (pkgs) lib;
  inherit (microvmConfig) hostName socket vmHostPackages;
  cfg = microvmConfig.minivmm;

  minivmm = lib.getExe' cfg.package "minivmm";

  refusals = import ./refusals.nix {
    inherit lib microvmConfig;
    inherit (pkgs.stdenv.hostPlatform) system;
  };

  settings = import ./settings.nix {
    inherit
      lib
      microvmConfig
      macvtapFds
      linuxTarget
      tapMultiQueue
      ;
  };

  written = (vmHostPackages.formats.toml { }).generate "minivmm-${hostName}.toml" settings;

  # What is wrong in `settings` is said when the VM is built and not when it is to start.
  checked = vmHostPackages.runCommand "minivmm-${hostName}.toml" { } ''
    ${minivmm} config check --file-only --config ${written}
    cp ${written} $out
  '';

  configFile = if cfg.checkConfig then checked else written;

  # Of a tap only the queues that are attached count. A macvtap spreads what arrives over all that are open, and
  # minivmm serves eight.
  hasMacvtap = lib.any (interface: interface.type == "macvtap") microvmConfig.interfaces;
  tapMultiQueue = microvmConfig.vcpu > 1 && (!hasMacvtap || microvmConfig.vcpu <= 8);

  at = "--socket ${lib.escapeShellArg socket}";
in
{
  inherit tapMultiQueue settings configFile;

  command =
    if refusals != [ ] then
      throw (
        "MicroVM ${hostName} cannot run on minivmm:" + lib.concatMapStrings (line: "\n- ${line}") refusals
      )
    else
      lib.escapeShellArgs (
        [
          minivmm
          "run"
          "--config"
          "${configFile}"
        ]
        ++ cfg.extraArgs
      );

  canShutdown = socket != null;

  # Presses the power button and returns when all of the VM's processes are gone, at once if there are none.
  shutdownCommand = "exec ${minivmm} stop ${at}";

  # minivmm says READY=1 itself, when the guest has or when its vCPUs run.
  supportsNotifySocket = true;

  requiresMacvtapAsFds = true;

  # Gives back what the balloon has when it has what it was asked for, or after ten seconds.
  setBalloonScript =
    if socket == null then
      null
    else
      ''
        size_now() {
          local report
          report=$(${minivmm} balloon ${at} "$@" --json) || return
          [[ $report =~ \"size_bytes\":\ *([0-9]+) ]]
          echo $((BASH_REMATCH[1] / 1048576))
        }
        now=$(size_now --size "$SIZE")
        until [ "$now" = "$SIZE" ] || [ "$SECONDS" -ge 10 ]; do
          ${lib.getExe' vmHostPackages.coreutils "sleep"} 0.2
          now=$(size_now)
        done
        echo "$now"
      '';
}
