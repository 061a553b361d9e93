# A stub of nixpkgs for machines without a network: only the attributes that the flake uses. Any other attribute is an
# error, as an unknown attribute of nixpkgs is.
{
  outputs =
    { self }:
    let
      package =
        system: name:
        derivation {
          inherit name system;
          builder = "/bin/sh";
        };
      packages =
        system:
        builtins.listToAttrs (
          map
            (name: {
              inherit name;
              value = package system name;
            })
            [
              "gnumake"
              "nixfmt-tree"
              "nodejs_22"
              "postgresql_18"
              "python3"
              "sqlite"
            ]
        )
        // {
          stdenv.cc = package system "cc";
          # Its arguments are evaluated, as those of the real one are.
          importNpmLock = {
            __functor =
              _:
              { package, packageLock }:
              builtins.deepSeq [ package packageLock ] (derivation {
                name = "dependencies";
                builder = "/bin/sh";
                inherit system;
                addresses = map (entry: entry.resolved or "") (builtins.attrValues packageLock.packages);
              });
            npmConfigHook = package system "hook";
          };
          buildNpmPackage =
            {
              pname,
              version,
              src,
              nodejs,
              npmDeps,
              npmConfigHook,
              npmFlags,
            }:
            derivation {
              name = "${pname}-${version}";
              builder = "/bin/sh";
              inherit
                system
                src
                nodejs
                npmDeps
                npmConfigHook
                npmFlags
                ;
            };
          mkShell =
            { packages }:
            derivation {
              name = "shell";
              builder = "/bin/sh";
              inherit system packages;
            };
        };
      systems = [
        "x86_64-linux"
        "aarch64-linux"
        "x86_64-darwin"
        "aarch64-darwin"
      ];
      genAttrs =
        names: function:
        builtins.listToAttrs (
          map (name: {
            inherit name;
            value = function name;
          }) names
        );
    in
    {
      lib = { inherit genAttrs; };
      legacyPackages = genAttrs systems packages;
    };
}
