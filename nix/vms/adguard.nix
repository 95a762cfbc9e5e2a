# AdGuard Home: DNS for the network, and its own pages on port 3000.
{
  imports = [
    (import ./service.nix {
      service = "adguard";
      unit = "adguardhome";
      uid = 61053;
      mac = "02:00:00:00:00:01";
      stateDirectory = "AdGuardHome";
    })
  ];

  services.adguardhome = {
    enable = true;
    openFirewall = true;
  };

  networking.firewall = {
    allowedTCPPorts = [ 53 ];
    allowedUDPPorts = [ 53 ];
  };

  # It answers on port 53 itself.
  services.resolved.enable = false;
}
