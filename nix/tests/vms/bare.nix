# The least: no disk, no network, no share, no socket, nobody's machine id.
{
  networking.hostName = "bare";

  microvm = {
    hypervisor = "minivmm";
    socket = null;
    machineId = null;
    storeOnDisk = false;
    prettyProcnames = false;
    optimize.enable = false;
    kernelParams = [ "quiet" ];
  };
}
