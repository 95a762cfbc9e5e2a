# A service whose files are on a share of the host: /var/lib/SERVICE there, /data in the guest, and in the service's own view
# where it looks for them. It has a user of its own with a number that the host knows as well.
{
  service,
  unit ? service,
  uid,
  mac,
  stateDirectory,
}:
{ lib, ... }:

{
  imports = [ ./base.nix ];

  networking.hostName = "${service}-vm";

  microvm = {
    interfaces = [
      {
        type = "tap";
        id = "vm-${service}";
        inherit mac;
      }
    ];
    shares = [
      {
        source = "/var/lib/${service}";
        mountPoint = "/data";
        tag = "${service}-data";
        proto = "virtiofs";
      }
    ];
  };

  users.users.${unit} = {
    isSystemUser = true;
    group = unit;
    inherit uid;
  };
  users.groups.${unit}.gid = uid;

  systemd.tmpfiles.settings."10-data" = {
    "/data".d = {
      mode = "0755";
      user = "root";
      group = "root";
    };
    "/data/${service}".d = {
      mode = "0700";
      user = unit;
      group = unit;
    };
  };

  systemd.services.${unit} = {
    unitConfig.RequiresMountsFor = "/data";
    serviceConfig = {
      DynamicUser = lib.mkForce false;
      User = lib.mkForce unit;
      Group = lib.mkForce unit;
      BindPaths = [ "/data/${service}:/var/lib/${stateDirectory}" ];
    };
  };
}
