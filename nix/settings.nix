# A VM of microvm.nix as minivmm's configuration: a value that is written as TOML. docs/nix.md has each option.
{
  lib,
  microvmConfig,
  macvtapFds,
  linuxTarget,
  tapMultiQueue,
}:

let
  inherit (microvmConfig)
    hostName
    vcpu
    mem
    machineId
    balloon
    initialBalloonMem
    deflateOnOOM
    kernel
    initrdPath
    kernelParams
    storeOnDisk
    storeDisk
    volumes
    shares
    interfaces
    vsock
    socket
    credentialFiles
    ;
  cfg = microvmConfig.minivmm;
  oemStrings = microvmConfig.cloud-hypervisor.platformOEMStrings;

  # The guest's systemd is asked to say when it is up, over a socket device.
  waitsForGuest = settled.lifecycle.ready == "guest";
  hasVsock = settled ? vsock || waitsForGuest;
  hasHvc0 = (settled.console.device or "hvc0") != "serial";

  # PCI slots as the QEMU runner's devices have them: entropy in 1, then one after the other in the order of QEMU's command
  # line. So a network interface keeps its name. What QEMU has not comes last.
  counts = {
    store = if storeOnDisk then 1 else 0;
    balloon = if balloon then 1 else 0;
    volumes = builtins.length volumes;
    shares = builtins.length shares;
    interfaces = builtins.length interfaces;
    vsock = if hasVsock then 1 else 0;
  };
  slots = {
    store = 2;
    balloon = slots.store + counts.store;
    volumes = slots.balloon + counts.balloon;
    shares = slots.volumes + counts.volumes;
    interfaces = slots.shares + counts.shares;
    vsock = slots.interfaces + counts.interfaces;
    console = slots.vsock + counts.vsock;
  };
  inSlots = first: lib.imap0 (n: device: { slot = first + n; } // device);

  # microvm.nix' QEMU says the first two; the others are its way to reboot and what follows a panic.
  cmdline = lib.concatStringsSep " " (
    lib.optionals (!hasHvc0) [
      "earlyprintk=ttyS0"
      "console=ttyS0"
    ]
    ++ [
      "reboot=t"
      "panic=-1"
    ]
    ++ kernelParams
  );

  # What a virtiofsd of microvm.nix' supervisor leaves when its connection ends is started again only if it had failed. With
  # one share that is the one; of several the others would be waited for in vain.
  onFailure = if builtins.length shares == 1 then "restart-vm" else "stop";

  fixed = {
    name = hostName;
    inherit vcpu mem;
    uuid = machineId;
    kernel = {
      path = "${kernel.out}/${linuxTarget}";
      initrd = "${initrdPath}";
    };
    smbios = if oemStrings == [ ] then null else { oem_strings = oemStrings; };

    interfaces = map (
      {
        type,
        id,
        mac,
        ...
      }:
      {
        inherit type id mac;
        fd = if type == "macvtap" then macvtapFds.${id} else null;
        queues = if tapMultiQueue then lib.min vcpu 8 else 1;
      }
    ) interfaces;

    shares = map (
      { tag, socket, ... }:
      {
        inherit tag socket;
        on_failure = onFailure;
      }
    ) shares;

    volumes =
      lib.optional storeOnDisk {
        image = "${storeDisk}";
        read_only = true;
        serial = "nix-store";
      }
      ++ map (
        {
          image,
          serial,
          direct,
          readOnly,
          ...
        }:
        {
          inherit image serial direct;
          read_only = readOnly;
        }
      ) volumes;

    # The path and not what it leads to: a secret has no place in the store.
    credentials = lib.mapAttrsToList (name: path: {
      inherit name;
      path = toString path;
    }) credentialFiles;

    vsock =
      if vsock.cid == null then
        null
      else
        {
          inherit (vsock) cid;
          socket = "notify.vsock";
          allow = cfg.vsock.allow;
        };

    balloon = {
      enabled = balloon;
    }
    // lib.optionalAttrs balloon {
      size = initialBalloonMem;
      deflate_on_oom = deflateOnOOM;
    };

    # The QEMU runner's console.
    console.device = "serial";

    lifecycle = {
      inherit (cfg) ready;
      # Less than the 150 s that microvm@.service gives a stop, and more than the 90 s that the guest's systemd gives a
      # service.
      stop_timeout = "130s";
      # microvm@.service starts again whatever ends.
      exit_status = "simple";
    };

    # One that no script uses is in the VM's directory nevertheless: its user has no other place.
    control.socket = if socket == null then "${hostName}.control" else socket;
  };

  # Lists of tables have names here: by these the ones are meant that `settings` changes.
  names = {
    interfaces = map ({ id, ... }: id) interfaces;
    shares = map ({ tag, ... }: tag) shares;
    volumes = lib.optional storeOnDisk "nix-store" ++ map ({ image, ... }: image) volumes;
    credentials = builtins.attrNames credentialFiles;
  };
  own = builtins.removeAttrs cfg.settings (builtins.attrNames names);
  changed =
    kind: known:
    let
      changes = cfg.settings.${kind} or { };
    in
    lib.zipListsWith (
      name: table: lib.recursiveUpdate table (changes.${name} or { })
    ) known fixed.${kind};
  # Credentials may be added: what the unit loads has no path.
  addedCredentials = lib.mapAttrsToList (name: table: { inherit name; } // table) (
    builtins.removeAttrs (cfg.settings.credentials or { }) names.credentials
  );

  # null takes a key away, and an empty list is what there is without one.
  given = lib.filterAttrsRecursive (_: value: value != null && value != [ ]);
  settled = given (lib.recursiveUpdate fixed own);

  tables = lib.mapAttrs (kind: known: map given (changed kind known)) names;
  storeFirst = builtins.genList (n: slots.store + n) counts.store;
  volumeSlots = storeFirst ++ builtins.genList (n: slots.volumes + n) counts.volumes;
in
given (
  settled
  // tables
  // {
    kernel = settled.kernel // {
      cmdline = lib.concatStringsSep " " (
        [ cmdline ] ++ lib.optional (settled.kernel ? cmdline) settled.kernel.cmdline
      );
    };
    credentials = tables.credentials ++ map given addedCredentials;
    interfaces = inSlots slots.interfaces tables.interfaces;
    shares = inSlots slots.shares tables.shares;
    volumes = lib.zipListsWith (slot: volume: { inherit slot; } // volume) volumeSlots tables.volumes;
    balloon = lib.optionalAttrs balloon { slot = slots.balloon; } // settled.balloon;
    console = lib.optionalAttrs hasHvc0 { slot = slots.console; } // settled.console;
    vsock = if hasVsock then { slot = slots.vsock; } // (settled.vsock or { }) else null;
  }
)
