# Options that minivmm refuses, each alone: refused.txt has the sentences.
let
  tap = {
    type = "tap";
    id = "vm-a";
    mac = "02:00:00:00:00:01";
  };
  volume = {
    image = "a.img";
    mountPoint = null;
    size = 16;
  };
  share = {
    tag = "data";
    source = "/srv/data";
    mountPoint = "/data";
    proto = "virtiofs";
  };
  times = n: one: builtins.genList one n;
  text = n: builtins.concatStringsSep "" (times n (_: "x"));
in
builtins.mapAttrs
  (_: microvm: {
    networking.hostName = "a";
    inherit microvm;
  })
  {
    cpu.cpu = "Westmere";
    vcpu.vcpu = 33;
    mem-little.mem = 63;
    mem-much.mem = 1048577;
    hugepageMem.hugepageMem = true;
    hotplugMem.hotplugMem = 512;
    initialBalloonMem.initialBalloonMem = 64;
    initialBalloonMem-much = {
      balloon = true;
      mem = 512;
      initialBalloonMem = 513;
    };
    volumes.volumes = times 10 (n: volume // { image = "${toString n}.img"; });
    volume-type.volumes = [ (volume // { imageType = "qcow2"; }) ];
    volume-serial.volumes = [ (volume // { serial = text 21; }) ];
    volume-fs.volumes = [ (volume // { fsType = "zfs"; }) ];
    interfaces.interfaces = times 9 (
      n:
      tap
      // {
        id = "vm-${toString n}";
        mac = "02:00:00:00:00:1${toString n}";
      }
    );
    interface-user.interfaces = [ (tap // { type = "user"; }) ];
    interface-bridge.interfaces = [
      (
        tap
        // {
          type = "bridge";
          bridge = "br0";
        }
      )
    ];
    interface-mac.interfaces = [ (tap // { mac = "02-00-00-00-00-01"; }) ];
    interface-vhost.interfaces = [ (tap // { tap.vhost = true; }) ];
    shares.shares = times 9 (n: share // { tag = "data${toString n}"; });
    share-9p.shares = [ (removeAttrs share [ "proto" ]) ];
    share-tag.shares = [ (share // { tag = text 37; }) ];
    devices-pci.devices = [
      {
        bus = "pci";
        path = "0000:01:00.0";
      }
    ];
    devices-usb.devices = [
      {
        bus = "usb";
        path = "vendorid=0xabcd,productid=0x0123";
      }
    ];
    user.user = "nobody";
    forwardPorts.forwardPorts = [
      {
        host.port = 2222;
        guest.port = 22;
      }
    ];
    graphics.graphics.enable = true;
    vsock-cid.vsock.cid = 2;
    socket.socket = text 108;
    credential-name.credentialFiles."a key" = "/run/secrets/key";
    credential-in-store.credentialFiles.key = "${builtins.storeDir}/key";
    settings-list.minivmm.settings.interfaces = [ { id = "vm-a"; } ];
    settings-stranger = {
      interfaces = [ tap ];
      minivmm.settings.interfaces.vm-b.mtu = 9000;
    };
    settings-stranger-volume.minivmm.settings.volumes."a.img".queues = 2;
    # More than one at once.
    both = {
      vcpu = 64;
      user = "nobody";
    };
  }
