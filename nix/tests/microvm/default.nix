# In the place of microvm.nix' guest module.
{
  imports = [
    ./options.nix
    ./guest.nix
  ];
}
