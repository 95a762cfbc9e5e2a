# minivmm, built from this source.
{
  lib,
  rustPlatform,
  installShellFiles,
}:

let
  root = ../.;
  manifest = builtins.fromTOML (builtins.readFile (root + "/Cargo.toml"));

  # What the program is built from: other changes do not build it anew. The workspace names its members, so those that are
  # for tests alone are there as well.
  parts = [
    "Cargo.toml"
    "Cargo.lock"
    "src"
    "units"
    "LICENSE-APACHE"
    "LICENSE-BSD-3-Clause"
    "tests"
  ]
  ++ manifest.workspace.members;

  source = builtins.path {
    name = "minivmm-source";
    path = root;
    filter =
      path: _type:
      let
        below = lib.removePrefix "${toString root}/" (toString path);
      in
      lib.any (
        part: below == part || lib.hasPrefix "${part}/" below || lib.hasPrefix "${below}/" part
      ) parts;
  };
in
rustPlatform.buildRustPackage {
  pname = "minivmm";
  inherit (manifest.workspace.package) version;

  src = source;
  cargoLock.lockFile = root + "/Cargo.lock";
  cargoBuildFlags = [
    "--package"
    "minivmm"
    "--bin"
    "minivmm"
  ];

  # The tests want KVM, guests and the network of a machine of their own: `make test`.
  doCheck = false;

  nativeBuildInputs = [ installShellFiles ];
  postInstall = ''
    $out/bin/minivmm man --out man
    installManPage man/*
    for shell in bash fish zsh; do
      $out/bin/minivmm completions $shell >minivmm.$shell
    done
    installShellCompletion minivmm.{bash,fish,zsh}
    $out/bin/minivmm install-units --prefix $out
  '';

  meta = {
    description = "Runs one hardened service VM per process on KVM";
    license = [
      lib.licenses.asl20
      lib.licenses.bsd3
    ];
    platforms = [ "x86_64-linux" ];
    mainProgram = "minivmm";
  };
}
