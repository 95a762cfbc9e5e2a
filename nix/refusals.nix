# What minivmm cannot do of what a VM of microvm.nix asks for: a sentence for each that says what to do. Empty if all is
# well. The limits are those of docs/architecture.md.
{
  lib,
  microvmConfig,
  system,
}:

let
  inherit (microvmConfig)
    hostName
    cpu
    vcpu
    mem
    hugepageMem
    hotplugMem
    hotpluggedMem
    balloon
    initialBalloonMem
    volumes
    interfaces
    shares
    devices
    user
    forwardPorts
    graphics
    vsock
    socket
    storeOnDisk
    credentialFiles
    ;
  cfg = microvmConfig.minivmm;
  inherit (builtins) length match stringLength;

  when = condition: sentence: lib.optional condition sentence;
  each = list: sentences: lib.concatMap sentences list;
  stay = "or keep `hypervisor = \"qemu\"` for this VM";

  volumesPossible = if storeOnDisk then 9 else 10;
  filesystems = [
    "ext2"
    "ext3"
    "ext4"
    "xfs"
    "btrfs"
    "vfat"
  ];

  # Tables of `settings` that change one which is not there.
  strangers =
    kind: names:
    map (
      name:
      "microvm.minivmm.settings.${kind}.\"${name}\": there is no such one; ${
        if names == [ ] then "the VM has none" else "there are ${lib.concatStringsSep ", " names}"
      }. Add it to `microvm.${kind}`."
    ) (lib.filter (name: !lib.elem name names) (builtins.attrNames (cfg.settings.${kind} or { })));

  notNamed = lib.filter (kind: builtins.isList (cfg.settings.${kind} or { })) [
    "interfaces"
    "shares"
    "volumes"
    "credentials"
  ];
in
when (
  system != "x86_64-linux"
) "minivmm is for x86_64-linux, and this VM is for ${system}: ${stay}."

++
  when (match "[A-Za-z0-9][A-Za-z0-9._-]{0,63}" hostName == null)
    "networking.hostName = \"${hostName}\" names the VM: use 1 to 64 letters, digits, `-`, `_` or `.`, a letter or digit first."

++
  when (cpu != null)
    "microvm.cpu = \"${toString cpu}\" asks for an emulated CPU, and minivmm gives the host's: leave it out, ${stay}."

++ when (vcpu > 32) "microvm.vcpu = ${toString vcpu}: minivmm has up to 32; say a smaller number."

++ when (
  mem < 64 || mem > 1048576
) "microvm.mem = ${toString mem}: minivmm gives a VM 64 to 1048576 MiB; say a number between these."

++ when hugepageMem "microvm.hugepageMem: minivmm does not use huge pages of the host's pool: leave it out."

++
  when (hotplugMem != 0 || hotpluggedMem != 0)
    "microvm.hotplugMem, hotpluggedMem: minivmm adds no memory to a VM that runs: give it all as `mem`, with `balloon = true` to take some back."

++
  when (initialBalloonMem != 0 && !balloon)
    "microvm.initialBalloonMem = ${toString initialBalloonMem} needs a balloon: say `balloon = true` as well."

++
  when (initialBalloonMem > mem)
    "microvm.initialBalloonMem = ${toString initialBalloonMem} is more than the ${toString mem} of `mem`: say less."

++
  when (length volumes > volumesPossible)
    "microvm.volumes: ${toString (length volumes)} are too many, minivmm has ${toString volumesPossible} beside the store: put more than one directory on a volume."

++ each volumes (
  {
    image,
    imageType,
    serial,
    autoCreate,
    fsType,
    ...
  }:
  when (imageType != "raw")
    "microvm.volumes, ${image}: minivmm reads raw images only, not ${imageType}: convert it with `qemu-img convert -O raw`, and say `imageType = \"raw\"`."
  ++
    when (serial != null && stringLength serial > 20)
      "microvm.volumes, ${image}: serial = \"${toString serial}\" is longer than the 20 bytes of a serial number: shorten it."
  ++
    when (autoCreate && !lib.elem fsType filesystems)
      "microvm.volumes, ${image}: a file system ${fsType} is not made here, only ${lib.concatStringsSep ", " filesystems}: say `autoCreate = false` and make the image yourself."
)

++
  when (length interfaces > 8)
    "microvm.interfaces: ${toString (length interfaces)} are too many, minivmm has 8: use VLANs in the guest."

++ each interfaces (
  {
    type,
    id,
    mac,
    tap,
    ...
  }:
  when (type == "user")
    "microvm.interfaces, ${id}: minivmm has no user network: say `type = \"tap\"`, and give the tap an address or put it into a bridge with systemd.network."
  ++
    when (type == "bridge")
      "microvm.interfaces, ${id}: minivmm does not call qemu-bridge-helper: say `type = \"tap\"`, leave `bridge` out, and put the tap into the bridge with systemd.network (`matchConfig.Name = \"${id}\"; networkConfig.Bridge = …`)."
  ++ when (
    match "[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}" mac == null
  ) "microvm.interfaces, ${id}: mac = \"${mac}\" is no MAC address: say one as 02:00:00:00:00:01."
  ++ when (
    type == "tap" && tap.vhost
  ) "microvm.interfaces, ${id}: minivmm does not use vhost-net yet: leave `tap.vhost` out."
)

++
  when (length shares > 8)
    "microvm.shares: ${toString (length shares)} are too many, minivmm has 8: share a directory above some of them."

++ each shares (
  { tag, proto, ... }:
  when (proto != "virtiofs")
    "microvm.shares, ${tag}: minivmm has no ${proto}, which is the default: say `proto = \"virtiofs\"`."
  ++
    when (match "[^ \"'\\,:]{1,36}" tag == null)
      "microvm.shares, ${tag}: a tag is 1 to 36 bytes without spaces, quotes, `\\`, `,` and `:`: choose another one, here and where the guest mounts it."
)

++ each devices (
  { bus, path, ... }: [
    "microvm.devices, ${path}: minivmm passes no ${bus} devices on: take it out, ${stay}."
  ]
)

++
  when (user != null)
    "microvm.user = \"${toString user}\": minivmm runs as whoever starts it, and microvm@.service is the user microvm's already: leave it out."

++
  when (forwardPorts != [ ])
    "microvm.forwardPorts belongs to QEMU's user network: say `type = \"tap\"`, and forward on the host with networking.nat.forwardPorts."

++ when graphics.enable "microvm.graphics.enable: minivmm has no display: leave it out, ${stay}."

++ when (
  vsock.cid != null && (vsock.cid < 3 || vsock.cid > 4294967294)
) "microvm.vsock.cid = ${toString vsock.cid} is nobody's: say 3 to 4294967294."

++
  when (socket != null && stringLength socket > 107)
    "microvm.socket is longer than the 107 bytes of a unix socket's path: shorten it; it is relative to the VM's directory."

++ each (builtins.attrNames credentialFiles) (
  name:
  when (match "[]!-.0-9;<>-~[]{1,255}" name == null)
    "microvm.credentialFiles.\"${name}\": a name is 1 to 255 printable ASCII characters without spaces, `/`, `:` and `=`: choose another one."
  ++
    when (lib.hasPrefix builtins.storeDir (toString credentialFiles.${name}))
      "microvm.credentialFiles.\"${name}\" is in the Nix store, which everybody on the host can read: say where it is as a string, as \"/run/secrets/${name}\"."
)

++ map (
  kind:
  "microvm.minivmm.settings.${kind} is a list, and would take the place of what microvm.${kind} says: name the one that is changed, as settings.${kind}.\"NAME\"."
) notNamed

++ lib.optionals (notNamed == [ ]) (
  strangers "interfaces" (map (interface: interface.id) interfaces)
  ++ strangers "shares" (map (share: share.tag) shares)
  ++ strangers "volumes" (lib.optional storeOnDisk "nix-store" ++ map (volume: volume.image) volumes)
)
