#!/usr/bin/env bash
# Installs the packed package into a new project, as an application would, and checks there that its modules can be
# imported and type-check, that one program runs, that internal modules cannot be imported, and that each package is
# installed only once.
set -euo pipefail
cd "$(dirname "$0")/../.."

root=$PWD
app=$(mktemp -d)
trap 'rm -rf "$app"' EXIT

npm pack --silent --pack-destination "$app" >/dev/null
tarball=$(cd "$app" && ls ./*.tgz)

tar -tzf "$app/$tarball" | sed 's|^package/||' >"$app/files"
if grep -vE '^(package\.json|README\.md|LICENSE|CHANGELOG\.md|(dist|docs)/.+)$' "$app/files"; then
  echo "the package holds unexpected files" >&2
  exit 1
fi
for file in worker.js internal/cli/main.js; do
  grep -qx "dist/$file" "$app/files" || { echo "the package lacks $file" >&2; exit 1; }
done

# What the registry would be sent, without a word of warning.
npm publish --dry-run --ignore-scripts --loglevel=warn >/dev/null 2>"$app/publish" || { cat "$app/publish" >&2; exit 1; }
if grep -E '^npm (warn|error)' "$app/publish" | grep -vE 'Unknown (user|env) config|requires you to be logged in'; then
  echo "npm publish has warnings" >&2
  exit 1
fi

cp test/tools/consumer.ts "$app/main.ts"
node - "$root" "$app" "$tarball" <<'JS'
const fs = require("node:fs")
const [root, app, tarball] = process.argv.slice(2)
const { devDependencies, peerDependencies } = JSON.parse(fs.readFileSync(`${root}/package.json`, "utf8"))
const names = [...Object.keys(peerDependencies), "@types/node", "typescript"]
// On Node.js 20 the repository has another version of it: test/tools/dependencies.js.
devDependencies["better-sqlite3"] = require(`${root}/node_modules/better-sqlite3/package.json`).version
fs.writeFileSync(`${app}/package.json`, JSON.stringify({
  name: "app",
  private: true,
  type: "module",
  dependencies: { sqlayer: `file:${tarball}`, ...Object.fromEntries(names.map((name) => [name, devDependencies[name]])) },
  overrides: { "@effect/sql-sqlite-node": { "better-sqlite3": "$better-sqlite3" } }
}))
fs.writeFileSync(`${app}/tsconfig.json`, JSON.stringify({
  compilerOptions: {
    target: "ES2022",
    lib: ["ES2022", "ESNext.Disposable"],
    module: "NodeNext",
    types: ["node"],
    strict: true,
    exactOptionalPropertyTypes: true,
    outDir: "out"
  },
  include: ["main.ts"]
}))
JS
cd "$app"
# The repository's native build of better-sqlite3 12 is reused, so that it is not compiled again. 13 has its own.
npm install --ignore-scripts --prefer-offline --no-audit --no-fund --loglevel=error >/dev/null
if [ -d "$root/node_modules/better-sqlite3/build" ]; then
  cp -r "$root/node_modules/better-sqlite3/build" node_modules/better-sqlite3/
fi

for name in effect @effect/sql @effect/platform pg better-sqlite3; do
  count=$(find node_modules -type d -path "*node_modules/$name" | wc -l)
  if [ "$count" -ne 1 ]; then
    echo "the application has $count copies of $name" >&2
    exit 1
  fi
done

npx --no-install tsc
node out/main.js

# Type-checks the declarations of every module and library without Node's types, which not every application has.
{
  echo '// @ts-expect-error Node is not known here.'
  echo 'export type Nodes = NodeJS.Timeout'
  for file in node_modules/sqlayer/dist/*.d.ts; do
    module=$(basename "$file" .d.ts)
    case "$module" in
      # Their types are those of @effect/sql-pg, @effect/sql-sqlite-node, kysely and drizzle-orm.
      Postgres | Sqlite | Kysely | Drizzle) continue ;;
    esac
    echo "export * as $module from \"sqlayer$([ "$module" = index ] || echo "/$module")\""
  done
} >nodeless.ts
sed -e 's/"types":\["node"\]/"types":[]/; s/"main.ts"/"nodeless.ts"/; s/"ESNext.Disposable"/"ESNext.Disposable","DOM"/' \
  tsconfig.json >tsconfig.nodeless.json
npx --no-install tsc -p tsconfig.nodeless.json --noEmit --skipLibCheck false
DATABASE_URL=:memory: npx --no-install sqlayer check --json

for module in internal/driver internal/driver.js internal/sqlite/worker dist/index.js src/index.ts; do
  code=$(node --input-type=module --eval "await import('sqlayer/$module').then(() => '', (error) => error.code).then(console.log)")
  case "$code" in
    ERR_PACKAGE_PATH_NOT_EXPORTED | ERR_MODULE_NOT_FOUND) echo "sqlayer/$module is refused" ;;
    *) echo "sqlayer/$module can be imported" >&2; exit 1 ;;
  esac
done
