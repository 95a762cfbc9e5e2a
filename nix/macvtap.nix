# A macvtap is opened by microvm-run and handed on: descriptors from 3 on, for each interface one for each pair of queues.
{ lib }:
{ microvmConfig, queues }:

let
  interfaces = builtins.filter (interface: interface.type == "macvtap") microvmConfig.interfaces;
  descriptors = lib.imap0 (n: interface: {
    name = interface.id;
    value = builtins.genList (queue: 3 + n * queues + queue) queues;
  }) interfaces;
in
{
  fds = builtins.listToAttrs descriptors;

  open = lib.concatMapStrings (
    { name, value }:
    ''
      read -r index <${lib.escapeShellArg "/sys/class/net/${name}/ifindex"}
    ''
    + lib.concatMapStrings (fd: ''
      exec ${toString fd}<>"/dev/tap$index"
    '') value
  ) descriptors;
}
