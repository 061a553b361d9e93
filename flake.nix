{
  description = "The database layer of an Effect application";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      systems = [
        "x86_64-linux"
        "aarch64-linux"
        "x86_64-darwin"
        "aarch64-darwin"
      ];
      manifest = builtins.fromJSON (builtins.readFile ./package.json);
      # The lock file names no registry, and Nix has to know where each package comes from: its integrity says what it is.
      withAddress =
        path: entry:
        let
          name = entry.name or (builtins.elemAt (builtins.match "(.*/)?node_modules/(.+)" path) 1);
          file = builtins.baseNameOf name;
        in
        if entry ? integrity then
          entry // { resolved = "https://registry.npmjs.org/${name}/-/${file}-${entry.version}.tgz"; }
        else
          entry;
      lock = builtins.fromJSON (builtins.readFile ./package-lock.json);
      packageLock = lock // {
        packages = builtins.mapAttrs withAddress lock.packages;
      };
      forEachSystem = function: nixpkgs.lib.genAttrs systems (system: function nixpkgs.legacyPackages.${system});
    in
    {
      packages = forEachSystem (pkgs: {
        default = pkgs.buildNpmPackage {
          pname = manifest.name;
          inherit (manifest) version;
          src = self;
          nodejs = pkgs.nodejs_22;
          npmDeps = pkgs.importNpmLock {
            package = manifest;
            inherit packageLock;
          };
          inherit (pkgs.importNpmLock) npmConfigHook;
          npmFlags = [ "--ignore-scripts" ];
        };
      });

      # Node runs everything; the tests bring a PostgreSQL of their own from npm, and run on this one's server when
      # TEST_DATABASE_URL names it. The compiler and Python build better-sqlite3 12 where Node.js is 20.
      devShells = forEachSystem (pkgs: {
        default = pkgs.mkShell {
          packages = [
            pkgs.nodejs_22
            pkgs.postgresql_18
            pkgs.sqlite
            pkgs.python3
            pkgs.stdenv.cc
            pkgs.gnumake
          ];
        };
      });

      formatter = forEachSystem (pkgs: pkgs.nixfmt-tree);
    };
}
