# What all of these VMs have in common: a small, hardened NixOS whose state is on a share.
{ lib, ... }:

{
  imports = [ ./kernel.nix ];

  system.stateVersion = lib.mkDefault "25.11";

  # Nobody spoofs an address, and nobody else says where packets go.
  boot.kernel.sysctl = {
    "net.ipv4.conf.all.rp_filter" = 1;
    "net.ipv4.conf.default.rp_filter" = 1;
    "net.ipv4.conf.all.log_martians" = 1;
    "net.ipv4.conf.default.log_martians" = 1;
    "net.ipv4.icmp_echo_ignore_broadcasts" = 1;
    "net.ipv4.tcp_syncookies" = 1;
    # Cores go nowhere, also where no limit keeps them from being made.
    "kernel.core_pattern" = "|/bin/false";
  }
  // lib.listToAttrs (
    lib.concatMap
      (
        key:
        map
          (interface: {
            name = "net.${lib.replaceStrings [ "*" ] [ interface ] key}";
            value = 0;
          })
          [
            "all"
            "default"
          ]
      )
      [
        "ipv4.conf.*.accept_redirects"
        "ipv4.conf.*.secure_redirects"
        "ipv4.conf.*.send_redirects"
        "ipv4.conf.*.accept_source_route"
        "ipv6.conf.*.accept_redirects"
        "ipv6.conf.*.accept_source_route"
      ]
  );

  boot.blacklistedKernelModules = [
    # Bluetooth
    "bluetooth"
    "btusb"
    # cameras
    "uvcvideo"
    "videodev"
    # what a VM has no use for
    "dccp"
    "firewire-core"
    "rds"
    "sctp"
    "thunderbolt"
    "tipc"
    "usb-storage"
  ];

  services.openssh = {
    enable = lib.mkDefault true;
    settings = {
      PermitRootLogin = "no";
      PasswordAuthentication = false;
      KbdInteractiveAuthentication = false;
      AllowAgentForwarding = false;
      AllowTcpForwarding = false;
      X11Forwarding = false;
      MaxAuthTries = 3;
    };
    # Keys that outlive the VM, whose root is in RAM.
    hostKeys = [
      {
        type = "ed25519";
        path = "/data/ssh/ssh_host_ed25519_key";
      }
    ];
  };

  # Memory of a service ends in no file.
  systemd.coredump.enable = false;
  security.pam.loginLimits = [
    {
      domain = "*";
      item = "core";
      type = "-";
      value = "0";
    }
  ];

  services.journald.extraConfig = ''
    Storage=volatile
    RuntimeMaxUse=32M
    MaxRetentionSec=7day
  '';

  networking = {
    useNetworkd = true;
    useDHCP = false;
    firewall.enable = true;
  };
  systemd.network.networks."10-service" = {
    # Not by name: that follows from the slot, and so from the hypervisor.
    matchConfig.Type = "ether";
    networkConfig.DHCP = lib.mkDefault "yes";
  };

  security.sudo.enable = false;
  users.mutableUsers = false;
  users.allowNoPasswordLogin = true;
  environment.defaultPackages = [ ];
  documentation.enable = false;
  nix.enable = false;
  services.getty.autologinUser = null;
  programs.command-not-found.enable = false;

  microvm = {
    hypervisor = "minivmm";
    vcpu = lib.mkDefault 2;
    mem = lib.mkDefault 1024;
  };
}
