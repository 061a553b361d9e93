#!/usr/bin/env bash
# Evaluates every output of flake.nix against a stub of nixpkgs, which needs no network. Prints one line per output.
set -euo pipefail
cd "$(dirname "$0")/../.."

if ! command -v nix >/dev/null; then
  if ! command -v apt-get >/dev/null; then
    echo "flake.nix was not checked: neither nix nor apt-get is installed" >&2
    exit 1
  fi
  (apt-get update && apt-get install --yes --no-install-recommends nix-bin) >/dev/null
fi

# A copy, since nix would copy the whole directory with node_modules into its store.
flake=$(mktemp -d)
trap 'rm -rf "$flake"' EXIT
cp flake.nix package.json package-lock.json "$flake/"

for system in x86_64-linux aarch64-linux x86_64-darwin aarch64-darwin; do
  for output in "packages.$system.default" "devShells.$system.default" "formatter.$system"; do
    if ! nix --extra-experimental-features "nix-command flakes" --option build-users-group "" \
      eval --offline --no-write-lock-file --override-input nixpkgs "path:$PWD/test/tools/nixpkgs" \
      --raw "path:$flake#$output.drvPath" >/dev/null 2>"$flake/log"; then
      cat "$flake/log" >&2
      exit 1
    fi
    echo "$output evaluates"
  done
done
