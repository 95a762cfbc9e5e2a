# Actual Budget: a web server on port 3000, whose files are SQLite databases on the share.
{
  imports = [
    (import ./service.nix {
      service = "actual";
      uid = 61054;
      mac = "02:00:00:00:00:02";
      stateDirectory = "actual";
    })
  ];

  services.actual = {
    enable = true;
    openFirewall = true;
  };
}
