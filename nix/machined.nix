# What microvm@.service calls, as root, to have the VM in `machinectl` and out of it.
{ pkgs, microvmConfig }:

let
  inherit (pkgs) lib;
  inherit (microvmConfig) hostName machineId;
  inherit (lib) escapeShellArg getExe';
  call = "${getExe' pkgs.systemd "busctl"} call org.freedesktop.machine1 /org/freedesktop/machine1 org.freedesktop.machine1.Manager";
  taps = lib.filter (interface: interface.type == "tap") microvmConfig.interfaces;
in
{
  # $1 is the process id of the supervisor: SIGTERM to it, which is what `machinectl terminate` sends, shuts the guest down.
  microvm-register = ''
    set -euo pipefail

    leader=$1
    ${
      if machineId != null then
        "uuid=${escapeShellArg machineId}"
      else
        ''
          # The UUID of version 5 in the name space of DNS names (RFC 9562).
          sum=$({ printf '\x6b\xa7\xb8\x10\x9d\xad\x11\xd1\x80\xb4\x00\xc0\x4f\xd4\x30\xc8%s' ${escapeShellArg hostName}; } | ${getExe' pkgs.coreutils "sha1sum"})
          printf -v variant %x $((0x''${sum:16:1} & 3 | 8))
          uuid=''${sum:0:12}5''${sum:13:3}$variant''${sum:17:15}''
    }
    hex=''${uuid//-/}
    bytes=()
    for ((n = 0; n < ''${#hex}; n += 2)); do
      bytes+=($((0x''${hex:n:2})))
    done

    interfaces=()
    ${lib.concatMapStrings ({ id, ... }: ''
      if read -r index <${escapeShellArg "/sys/class/net/${id}/ifindex"}; then
        interfaces+=("$index")
      fi
    '') taps}
    ${call} RegisterMachineWithNetwork sayssusai \
      ${escapeShellArg hostName} "''${#bytes[@]}" "''${bytes[@]}" minivmm vm "$leader" / \
      "''${#interfaces[@]}" "''${interfaces[@]}"
  '';

  # It may be gone already.
  microvm-unregister = ''
    ${call} TerminateMachine s ${escapeShellArg hostName} 2>/dev/null || true
  '';
}
