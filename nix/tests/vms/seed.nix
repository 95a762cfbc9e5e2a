# The VM of the user's README, with one word changed.
{
  networking.hostName = "adguard-vm";

  microvm = {
    hypervisor = "minivmm";
    vcpu = 2;
    mem = 1024;

    interfaces = [
      {
        type = "tap";
        id = "vm-adguard";
        mac = "02:00:00:00:00:01";
      }
    ];

    shares = [
      {
        source = "/var/lib/adguard";
        mountPoint = "/data";
        tag = "adguard-data";
        proto = "virtiofs";
      }
    ];
  };
}
