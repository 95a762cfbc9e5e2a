# Every option that is passed on, with another value than its default.
{
  networking.hostName = "full";

  microvm = {
    hypervisor = "minivmm";
    vcpu = 4;
    mem = 2048;
    balloon = true;
    initialBalloonMem = 256;
    deflateOnOOM = false;
    machineId = "a67472e5-570e-5c8a-b18c-ae3c77701050";
    socket = "control.sock";
    registerWithMachined = true;
    preStart = "echo before";
    extraArgsScript = "echo --log debug";

    kernelParams = [ "quiet" ];

    volumes = [
      {
        image = "var.img";
        label = "var";
        mountPoint = "/var";
        size = 64;
        serial = "var-0";
      }
      {
        image = "/dev/vg0/full-data";
        mountPoint = null;
        size = 0;
        autoCreate = false;
        direct = true;
        readOnly = true;
      }
      {
        image = "boot disk.img";
        label = "BOOT";
        mountPoint = "/boot";
        size = 8;
        fsType = "vfat";
        mkfsExtraArgs = [
          "-F"
          "16"
        ];
      }
    ];

    interfaces = [
      {
        type = "tap";
        id = "vm-full";
        mac = "02:00:00:00:00:0a";
      }
      {
        type = "macvtap";
        id = "vm-full-mac";
        mac = "02:00:00:00:00:0b";
        macvtap.link = "eth0";
        macvtap.mode = "bridge";
      }
      {
        type = "macvtap";
        id = "vm-full-vepa";
        mac = "02:00:00:00:00:0c";
        macvtap.link = "eth1";
        macvtap.mode = "vepa";
      }
    ];

    shares = [
      {
        source = "/nix/store";
        mountPoint = "/nix/.ro-store";
        tag = "ro-store";
        proto = "virtiofs";
        readOnly = true;
        cache = "always";
      }
      {
        source = "/srv/data";
        mountPoint = "/data";
        tag = "data";
        socket = "/run/full/data.sock";
        proto = "virtiofs";
        posixAcl = false;
        extraArgs = [ "--translate-uid=host:1000:0:1" ];
      }
    ];

    vsock.cid = 5;
    vsock.ssh.enable = true;

    credentialFiles.SOPS_AGE_KEY = "/run/secrets/full-age-key";
    cloud-hypervisor.platformOEMStrings = [ "rack=7" ];

    minivmm = {
      extraArgs = [
        "--log"
        "warn"
      ];
      vsock.allow = [
        "ssh"
        "host:9000"
      ];
      credentialsInInitrd = true;
      settings = {
        kernel.cmdline = "audit=0";
        lifecycle.watchdog = "30s";
        lifecycle.stop_timeout = "1m";
        interfaces.vm-full.mtu = 9000;
        interfaces.vm-full-vepa.offload = false;
        shares.data.on_failure = "ignore";
        volumes."var.img".queues = 2;
        credentials.from-the-unit = { };
        console.device = "both";
      };
    };
  };
}
