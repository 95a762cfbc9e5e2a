# As much of nixpkgs as the tests use: builders that run this machine's bash, and packages that are this machine's files.
{
  lib,
  # The program under test.
  minivmm,
  virtiofsd ? "/usr",
}:

let
  # What is there already, as a package.
  prefix =
    name: path:
    let
      package = {
        type = "derivation";
        inherit name;
        pname = name;
        outPath = path;
        out = package;
        bin = package;
        dev = package;
        outputName = "out";
        version = "1";
        meta.mainProgram = name;
        configureFlags = [ ];
        overrideAttrs = _: package;
        override = _: package;
        passthru = { };
      };
    in
    package;

  # Programs that Debian keeps apart from others.
  administrators =
    name: programs:
    runCommand name { } ''
      mkdir -p $out/bin
      for program in ${toString programs}; do
        ln -s /usr/sbin/$program $out/bin/
      done
      ln -s /usr/bin/chattr $out/bin/
    '';

  runCommand =
    name: env: script:
    let
      attributes = removeAttrs env [
        "meta"
        "passthru"
        "nativeBuildInputs"
        "__structuredAttrs"
        "unsafeDiscardReferences"
      ];
    in
    derivation (
      attributes
      // {
        inherit name script;
        system = "x86_64-linux";
        builder = "/bin/bash";
        passAsFile = [ "script" ] ++ env.passAsFile or [ ];
        # A builder whose last command is another program may be killed at its end.
        args = [
          "-euc"
          ''
            export PATH=/usr/sbin:/usr/bin:/sbin:/bin
            . "$scriptPath"
            exit 0
          ''
        ];
      }
    )
    // (env.passthru or { })
    // {
      passthru = env.passthru or { };
      meta = env.meta or { };
    };

  writeText =
    name: text:
    runCommand name {
      inherit text;
      passAsFile = [ "text" ];
    } ''cp "$textPath" $out'';

  writeShellScript =
    name: text:
    runCommand name
      {
        text = "#!/bin/bash\n${text}\n";
        passAsFile = [ "text" ];
      }
      ''
        cp "$textPath" $out
        chmod +x $out
        bash -n $out
      '';

  jsonType = lib.types.nullOr (
    lib.types.oneOf [
      lib.types.bool
      lib.types.int
      lib.types.float
      lib.types.str
      lib.types.path
      (lib.types.attrsOf jsonType)
      (lib.types.listOf jsonType)
    ]
  );

  pkgs = lib.genAttrs (import ./programs.nix) (name: prefix name "/usr") // {
    _type = "pkgs";
    inherit
      lib
      runCommand
      writeShellScript
      writeText
      ;
    runCommandLocal = runCommand;
    system = "x86_64-linux";
    stdenv.hostPlatform = {
      system = "x86_64-linux";
      linux-kernel.target = "bzImage";
      isLinux = true;
      isDarwin = false;
    };
    stdenv.targetPlatform.system = "x86_64-linux";
    buildPackages = pkgs;
    runtimeShell = "/bin/bash";
    formats.json = _: {
      type = jsonType;
    };
    formats.toml = _: {
      type = jsonType;
      generate =
        name: value:
        runCommand name {
          value = builtins.toJSON value;
          passAsFile = [ "value" ];
        } ''python3 ${./toml.py} <"$valuePath" >$out'';
    };
    e2fsprogs = administrators "e2fsprogs" [
      "mkfs.ext2"
      "mkfs.ext3"
      "mkfs.ext4"
    ];
    dosfstools = administrators "dosfstools" [ "mkfs.vfat" ];
    minivmm = prefix "minivmm" minivmm;
    # The only package that is built here is minivmm.
    callPackage = _: _: pkgs.minivmm;
    linuxPackages.kernel = prefix "linux" "/boot";
    virtiofsd = prefix "virtiofsd" virtiofsd;

    # What only microvm.nix itself asks for.
    python3Packages.supervisor = prefix "supervisord" "/usr";
    writers.writePython3 =
      name: _: file:
      writeShellScript name "exec python3 ${file}";
    replaceVars = file: _: file;
    path = "/nixpkgs";
    closureInfo = _: runCommand "closure-info" { } "mkdir $out; touch $out/registration";
    writeClosure = _: writeText "closure" "";
  };
in
pkgs
