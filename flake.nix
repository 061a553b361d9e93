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
      forEachSystem = function: nixpkgs.lib.genAttrs systems (system: function nixpkgs.legacyPackages.${system});
    in
    {
      # Node runs everything; the tests bring a PostgreSQL of their own from npm, and run on this one's server when
      # TEST_DATABASE_URL names it. The compiler and Python build better-sqlite3 where there is no binary of it.
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
