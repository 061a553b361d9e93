import { assert, describe, it } from "@effect/vitest"
import type * as ConfigError from "effect/ConfigError"
import * as Either from "effect/Either"
import * as FastCheck from "effect/FastCheck"
import * as Redacted from "effect/Redacted"
import * as Os from "node:os"
import * as Util from "node:util"
import * as DatabaseConfig from "../../../src/DatabaseConfig.js"
import { format, localPath, parse as parseSqlite } from "../../../src/internal/sqlite/url.js"

type Target = DatabaseConfig.PostgresTarget | DatabaseConfig.SqliteTarget

const parse = (url: string): Either.Either<Target, ConfigError.ConfigError> =>
  Either.map(DatabaseConfig.resolve({ url }), ({ target }) => target)

/** A target whose password can be compared. */
const plain = (target: Target): object =>
  target._tag === "postgres"
    ? { ...target, password: target.password && Redacted.value(target.password) }
    : target

const read = (url: string): object =>
  plain(Either.getOrThrowWith(parse(url), (error) => new Error(`${url}: ${error.message}`)))

const messages = (error: ConfigError.ConfigError): Array<string> =>
  error._op === "And" || error._op === "Or" ? [...messages(error.left), ...messages(error.right)] : [error.message]

const refusal = (url: string): Array<string> =>
  messages(Either.getOrThrowWith(Either.flip(parse(url)), () => new Error(`${url} is accepted`)))

const outputs = (value: unknown): string =>
  [String(value), JSON.stringify(value), Util.inspect(value, { depth: null, showHidden: true })].join("\n")

const user = Os.userInfo().username

describe("SQLite URLs", () => {
  it.each<readonly [url: string, filename: string]>([
    [":memory:", ":memory:"],
    [" :memory:\n", ":memory:"],
    ["sqlite://", ":memory:"],
    ["sqlite:///", ":memory:"],
    ["sqlite:///:memory:", ":memory:"],
    ["sqlite://:memory:", ":memory:"],
    ["sqlite::memory:", ":memory:"],
    ["sqlite:///%3Amemory%3A", ":memory:"],
    ["sqlite:///a.db?mode=memory", ":memory:"],
    ["sqlite:///relative.db", "relative.db"],
    ["sqlite:///./dir/relative.db", "./dir/relative.db"],
    ["sqlite:////var/lib/absolute.db", "/var/lib/absolute.db"],
    ["sqlite:relative.db", "relative.db"],
    ["sqlite:/absolute.db", "/absolute.db"],
    ["SQLite:///a.db", "a.db"],
    ["sqlite+aiosqlite:///a.db", "a.db"],
    ["sqlite+pysqlite:///:memory:", ":memory:"],
    ["sqlite:///a%20b%3Fc%25.db", "a b?c%.db"],
    ["sqlite:///a@b:c#d+e.db", "a@b:c#d+e.db"],
    ["sqlite:///ü.db", "ü.db"],
    ["sqlite:///a.db?", "a.db"],
    ["sqlite:///a.db?mode=rwc", "a.db"],
    ["sqlite:///file:/a.db?uri=true", "/a.db"],
    ["sqlite:///file::memory:?uri=true", ":memory:"],
    ["sqlite:///%66ile:a.db", "./file:a.db"],
    ["sqlite+aiosqlite:///a.db?check_same_thread=False", "a.db"],
    ["sqlite:///a.db?timeout=20&check_same_thread=false&mode=rwc", "a.db"],
    ["sqlite:///file:a.db?uri=true&check_same_thread=true", "a.db"],
    ["file:data.db", "data.db"],
    ["file:data.db#fragment", "data.db"],
    ["file:/abs.db", "/abs.db"],
    ["file:///abs.db", "/abs.db"],
    ["file://localhost/abs.db", "/abs.db"],
    ["file:a%20b.db?mode=rwc#fragment", "a b.db"],
    ["file::memory:", ":memory:"],
    ["file:name?mode=memory", ":memory:"]
  ])("%s is %s", (url, filename) => {
    const thread = filename === ":memory:" ? "main" : "worker"
    assert.deepStrictEqual(read(url), { _tag: "sqlite", filename, readOnly: false, thread })
  })

  it.each<readonly [url: string, filename: string]>([
    ["sqlite:///a.db?mode=ro", "a.db"],
    ["sqlite:///file:a.db?mode=ro&uri=true", "a.db"],
    ["file:data.db?mode=ro", "data.db"]
  ])("%s is %s, read only", (url, filename) => {
    assert.deepStrictEqual(read(url), { _tag: "sqlite", filename, readOnly: true, thread: "worker" })
  })

  it.each<readonly [url: string, part: string]>([
    ["sqlite:", "a file's name"],
    ["file:", "a file's name"],
    ["sqlite:///%20", "a file's name without spaces around it"],
    ["sqlite:///a.db%20", "a file's name without spaces around it"],
    ["sqlite://a.db", "sqlite:///relative.db, sqlite:////absolute.db"],
    ["sqlite://host/a.db", "sqlite:///relative.db, sqlite:////absolute.db"],
    ["file://a.db", "file:relative.db or file:///absolute.db"],
    ["file://host/a.db", "file:relative.db or file:///absolute.db"],
    ["sqlite:///a%zz.db", "the file's name to be UTF-8 text with %"],
    ["sqlite:///a%00.db", "the file's name to be UTF-8 text"],
    ["sqlite:///a.db?mode=wo", "parameter mode to be one of ro, rw, rwc, memory"],
    ["file:a.db?immutable=maybe", "parameter immutable to be 1 or 0"],
    ["sqlite:///a.db?mode", "parameter mode to have a value"],
    ["sqlite:///a.db?mode=ro&mode=ro", "parameter mode once"],
    ["sqlite:///a.db?cache=shared", "parameter cache to be private (connections that share a cache lock"],
    ["file:a.db?timeout=5", "each parameter to be one of mode, immutable, cache and not timeout"],
    [
      "sqlite:///a.db?timeout=soon",
      "parameter timeout to be a duration such as \"30 seconds\", \"500 millis\" or \"30\" (seconds), from 1 millisecond"
    ],
    ["sqlite:///a.db?timeout=0", "parameter timeout to be a duration"],
    ["sqlite:///a.db?check_same_thread", "parameter check_same_thread to have a value"],
    ["file::memory:?mode=ro", "a database in memory is writable"]
  ])("%s is refused: expected %s", (url, part) => {
    assert.include(refusal(url)[0], part)
  })
})

describe("SQLite URLs of the operating system", () => {
  it.each<readonly [path: string, windows: string]>([
    ["/C:/data/app.db", "C:\\data\\app.db"],
    ["c:/data/my app.db", "c:\\data\\my app.db"],
    ["data/app.db", "data/app.db"],
    ["/var/lib/app.db", "/var/lib/app.db"]
  ])("the path %s", (path, windows) => {
    assert.strictEqual(localPath(path, "win32"), windows)
    assert.strictEqual(localPath(path, "linux"), path)
    const rest = `//${path.startsWith("/") ? path : `/${path}`}`
    assert.strictEqual(parseSqlite("file", rest, "win32").value.filename.endsWith("app.db"), true)
  })

  it("a URL and its text are the same target", () => {
    for (const url of ["file:///C:/data/app.db", "file:a.db?mode=rw", "file:a.db?immutable=1", "file:a.db?mode=ro"]) {
      const { value } = parseSqlite("file", url.slice("file:".length), "win32")
      assert.deepStrictEqual(parseSqlite("sqlite", format(value).slice("sqlite:".length), "win32").value, value)
    }
  })
})

describe("PostgreSQL URLs", () => {
  const target = {
    _tag: "postgres",
    hosts: [{ host: "h", port: 5432 }],
    targetSessionAttrs: "any",
    database: "db",
    username: "app",
    password: undefined,
    sslMode: "prefer",
    channelBinding: "disable",
    sslRootCert: undefined,
    sslCert: undefined,
    sslKey: undefined,
    applicationName: "sqlayer",
    serverOptions: undefined
  }

  it.each<readonly [url: string, different: object]>([
    ["postgres://app@h/db", {}],
    ["postgresql://app@h/db", {}],
    ["PostgreSQL://app@h/db", {}],
    ["postgresql+asyncpg://app@h/db", {}],
    ["postgresql+psycopg2://app@h/db", {}],
    ["postgres://app@h/db?", {}],
    ["postgres://app@h", { database: "app" }],
    ["postgres://app@h/", { database: "app" }],
    ["postgres://h", { username: user, database: user }],
    ["postgres://:pw@h/db", { username: user, password: "pw" }],
    ["postgres://app:@h/db", {}],
    ["postgres://app:pw@h/db", { password: "pw" }],
    ["postgres://app:p:w@h/db", { password: "p:w" }],
    ["postgres://app:p@w@h/db", { password: "p@w" }],
    ["postgres://app:p#w@h/db", { password: "p#w" }],
    ["postgres://app:p+w@h/db", { password: "p+w" }],
    ["postgres://app:p%40%2F%3A%25%20%C3%BCw@h/db", { password: "p@/:% üw" }],
    ["postgres://a%40p:pw@h/d%2Fb", { username: "a@p", password: "pw", database: "d/b" }],
    ["postgres://app@h/d b", { database: "d b" }],
    ["postgres://app@/db", { hosts: [{ host: "localhost", port: 5432 }] }],
    ["postgres://app@:5433/db", { hosts: [{ host: "localhost", port: 5433 }] }],
    ["postgres://app@h:1/db", { hosts: [{ host: "h", port: 1 }] }],
    ["postgres://app@h:65535/db", { hosts: [{ host: "h", port: 65535 }] }],
    ["postgres://app@127.0.0.1/db", { hosts: [{ host: "127.0.0.1", port: 5432 }] }],
    ["postgres://app@[::1]/db", { hosts: [{ host: "::1", port: 5432 }] }],
    ["postgres://app@[2001:db8::1]:5433/db", { hosts: [{ host: "2001:db8::1", port: 5433 }] }],
    ["postgres://app@[fe80::1%25eth0]/db", { hosts: [{ host: "fe80::1%eth0", port: 5432 }] }],
    ["postgres://app@my_db.internal-1/db", { hosts: [{ host: "my_db.internal-1", port: 5432 }] }],
    ["postgres://app@%2Fvar%2Frun/db", { hosts: [{ host: "/var/run", port: 5432 }] }],
    ["postgres://app@%2Fvar%2Frun:5433/db", { hosts: [{ host: "/var/run", port: 5433 }] }],
    ["postgres://app@/db?host=/var/run", { hosts: [{ host: "/var/run", port: 5432 }] }],
    ["postgres://app@:5433/db?host=%2Fvar%2Frun", { hosts: [{ host: "/var/run", port: 5433 }] }],
    ["postgres:///db?host=h&user=app", {}],
    ["postgres://?host=h&port=7&user=app&password=pw&dbname=db", { hosts: [{ host: "h", port: 7 }], password: "pw" }],
    ["postgres://other:old@g:9/no?host=h&port=7&user=app&password=p%26w&dbname=db", {
      hosts: [{ host: "h", port: 7 }],
      password: "p&w"
    }],
    ["postgres://app@h/db?host=::1", { hosts: [{ host: "::1", port: 5432 }] }],
    ["postgres://app@h1:1,h2,[::1]:3/db", {
      hosts: [{ host: "h1", port: 1 }, { host: "h2", port: 5432 }, { host: "::1", port: 3 }]
    }],
    ["postgres://app@/db?host=a,b&port=1,2", { hosts: [{ host: "a", port: 1 }, { host: "b", port: 2 }] }],
    ["postgres://app@/db?host=a%2Cb&port=1", { hosts: [{ host: "a", port: 1 }, { host: "b", port: 1 }] }],
    ["postgres://app@/db?host=a,/tmp&port=1,", { hosts: [{ host: "a", port: 1 }, { host: "/tmp", port: 5432 }] }],
    // As SQLAlchemy writes them.
    ["postgresql+asyncpg://app:pw@/db?host=HostA:5432&host=HostB:5433", {
      hosts: [{ host: "HostA", port: 5432 }, { host: "HostB", port: 5433 }],
      password: "pw"
    }],
    ["postgresql+psycopg2://app@/db?host=a&host=b&port=1&port=2", {
      hosts: [{ host: "a", port: 1 }, { host: "b", port: 2 }]
    }],
    ["postgres://app@/db?host=a:7", { hosts: [{ host: "a", port: 7 }] }],
    ["postgres://app@g:9/db?host=a:7", { hosts: [{ host: "a", port: 7 }] }],
    ["postgres://app@/db?host=a:7&host=b", { hosts: [{ host: "a", port: 7 }, { host: "b", port: 5432 }] }],
    ["postgres://app@/db?host=a:7,[::1]:8&host=/tmp&host=::1", {
      hosts: [{ host: "a", port: 7 }, { host: "::1", port: 8 }, { host: "/tmp", port: 5432 }, {
        host: "::1",
        port: 5432
      }]
    }],
    ["postgres://app@a,b/db?port=7", { hosts: [{ host: "a", port: 7 }, { host: "b", port: 7 }] }],
    ["postgres://app@h/db?sslmode=verify-full&sslrootcert=/a%20b/ca.pem", {
      sslMode: "verify-full",
      sslRootCert: "/a b/ca.pem"
    }],
    ["postgres://app@h/db?sslcert=c.pem&sslkey=k.pem", { sslCert: "c.pem", sslKey: "k.pem" }],
    ["postgres://app@h/db?ssl=true", { sslMode: "require" }],
    ["postgres://app@h/db?ssl=verify-full", { sslMode: "verify-full" }],
    ["postgres://app@h/db?ssl=disable", { sslMode: "disable" }],
    ["postgres://app@h/db?ssl=true&sslmode=verify-full", { sslMode: "verify-full" }],
    ["postgres://app@h/db?ssl=verify-full&sslmode=disable", { sslMode: "verify-full" }],
    ["postgres://app@h/db?channel_binding=disable", {}],
    ["postgres://app@h/db?channel_binding=prefer", { channelBinding: "prefer" }],
    ["postgres://app@h/db?sslmode=require&channel_binding=require", {
      sslMode: "require",
      channelBinding: "require"
    }],
    ["postgres://app@h/db?application_name=my+app%20x", { applicationName: "my+app x" }],
    ["postgres://app@h/db?application_name=", {}],
    ["postgres://app@h/db?options=-c%20search_path%3Dapp", { serverOptions: "-c search_path=app" }],
    ["postgres://app@h/db?options=-csearch_path=app&", { serverOptions: "-csearch_path=app" }],
    ["postgres://app@h/db?target_session_attrs=read-write", { targetSessionAttrs: "read-write" }],
    ["postgres://app@h/db?load_balance_hosts=random", { loadBalanceHosts: "random" }],
    ["postgres://app@h/db?load_balance_hosts=disable", {}]
  ])("%s", (url, different) => {
    // Of several hosts, the one that can be written to is meant.
    const targetSessionAttrs = "hosts" in different && (different.hosts as ReadonlyArray<unknown>).length > 1
      ? "read-write"
      : "any"
    assert.deepStrictEqual(read(url), { ...target, targetSessionAttrs, ...different })
  })

  it.each(["any", "read-write", "read-only", "primary", "standby", "prefer-standby"])(
    "target_session_attrs=%s",
    (attrs) => {
      for (const hosts of ["h", "h,i"]) {
        const target = read(`postgres://${hosts}/db?target_session_attrs=${attrs}`)
        assert.deepInclude(target, { targetSessionAttrs: attrs })
        assert.deepStrictEqual(read(DatabaseConfig.render(target as never)), target)
      }
    }
  )

  it.each<readonly [url: string, part: string]>([
    ["postgres:", "postgres://user:password@host:port/database, but was given postgres: without //"],
    ["postgresql:db", "postgresql://user:password@host:port/database"],
    ["postgres:/h/db", "postgres://user:password@host:port/database"],
    ["postgres://app:pw@h:0/db", "each port to be a whole number from 1 to 65535"],
    ["postgres://app:pw@h:65536/db", "but was given postgres://***@h:65536/db"],
    ["postgres://app:pw@h:-1/db", "each port"],
    ["postgres://app:pw@h:1e3/db", "each port"],
    ["postgres://app:pw@h:$PORT/db", "each port"],
    ["postgres://app:pw@::1/db", "IPv6 addresses in brackets"],
    ["postgres://app:pw@[::1/db", "each host"],
    ["postgres://app:pw@[::1]5432/db", "each host"],
    ["postgres://app:pw@[h]/db", "each host"],
    ["postgres://app:pw@[::g]/db", "each host"],
    ["postgres://app:pw@[::1%eth0]/db", "each host"],
    ["postgres://app:pw@h h/db", "each host"],
    ["postgres://app:pw@h%zz/db", "each host"],
    ["postgres://app:pw@h,/db", "each host"],
    ["postgres://app:pw@,h/db", "each host"],
    ["postgres://app:pw@a,b,c/db?port=1,2", "a port for each host, or one for all"],
    ["postgres://app:pw@a:1,b:2/db?host=c", "a port for each host, or one for all"],
    ["postgres://app:pw@/db?host=relative/dir", "each host"],
    ["postgres://app:pw@/db?port=x", "each port"],
    ["postgres://app:pw@/db?host=a:x", "each port"],
    ["postgres://app:pw@/db?host=a:0&host=b", "each port"],
    ["postgres://app:pw@/db?host=a&host=b&host=c&port=1&port=2", "a port for each host, or one for all"],
    ["postgres://app:pw@/db?host=a:1&port=2", "ports after the hosts or in parameter port, not both"],
    ["postgres://a%p:pw@h/db", "the user to be UTF-8 text"],
    ["postgres://app:p%w@h/db", "the password to be UTF-8 text with % only before two hexadecimal digits"],
    ["postgres://app:p%FF@h/db", "the password to be UTF-8 text"],
    ["postgres://app:p%00@h/db", "the password to be UTF-8 text"],
    ["postgres://app:\uD800@h/db", "the password to be UTF-8 text"],
    ["postgres://h/d%b", "the database to be UTF-8 text"],
    ["postgres://app:a/b@h/db", "@ is written %40, / is %2F and ? is %3F"],
    ["postgres://app:a?b@h/db", "@ is written %40, / is %2F and ? is %3F"],
    [
      "postgres://h/db?channelbinding=require",
      "and not channelbinding, but was given postgres://h/db?channelbinding=***"
    ],
    ["postgres://h/db?channel_binding=yes", "parameter channel_binding to be one of disable, prefer, require, but"],
    [
      "postgres://h/db?sslmode=disable&channel_binding=require",
      "a sslmode that encrypts, as channel_binding is require, but was given \"disable\""
    ],
    ["postgres://h/db?sslmode", "parameter sslmode to have a value after ="],
    ["postgres://h/db?sslmode=%", "parameter sslmode to be UTF-8 text"],
    ["postgres://h/db?sslmode=require&sslmode=disable", "parameter sslmode once"],
    [
      "postgres://h/db?sslmode=on",
      "parameter sslmode to be one of disable, allow, prefer, require, verify-ca, verify-full"
    ],
    [
      "postgres://h/db?ssl=1",
      "parameter ssl to be one of true, disable, allow, prefer, require, verify-ca, verify-full"
    ],
    ["postgres://h/db?ssl=false", "parameter ssl to be one of true, disable"],
    ["postgres://h/db?load_balance_hosts=on", "parameter load_balance_hosts to be one of disable, random"],
    ["postgres://h/db?target_session_attrs=master", "parameter target_session_attrs to be one of any, read-write"],
    ["postgres://h/db?connect_timeout=-1", "parameter connect_timeout to be a duration"],
    ["mysql://app:pw@h/db", "postgres:, postgresql:, sqlite: or file:, or :memory:"],
    ["hunter2", "something else (not shown)"],
    ["host=h password=hunter2", "something else (not shown)"],
    ["./data.db", "a file's path is sqlite:///path"],
    ["://", "postgres:, postgresql:, sqlite: or file:"]
  ])("%s is refused: expected %s", (url, part) => {
    assert.include(refusal(url)[0], part)
  })

  it("everything wrong with a URL is reported at once", () => {
    assert.strictEqual(refusal("postgres://a%:p%@h:x/d%?foo=1&sslmode=on").length, 6)
  })

  it.each<readonly [url: string, shown: string]>([
    ["postgres://app:hunter2@h/db?foo=hunter2", "postgres://***@h/db?foo=***"],
    ["postgres://h/db?foo=1&password=hunter2", "postgres://h/db?foo=***&password=***"],
    ["postgres://h/db?password=a&hunter2=x&sslmode=require", "postgres://h/db?password=***&***&sslmode=***"],
    ["postgres://h/db?password=a&hunter2", "postgres://h/db?password=***&***"],
    ["postgres://app:hunter2", "postgres://***"],
    ["postgres://app:hun/ter2?hunter2=3", "postgres://***"],
    ["postgres://app:1/hunter2@h/db", "postgres://***"],
    ["postgres://app:1?hunter2=3@h/db", "postgres://***"],
    ["postgres://h/db?hunter2", "postgres://h/db?***"],
    ["sqlite://app:hunter2@h/db", "sqlite://***"],
    ["sqlite+pysqlcipher://:hunter2@/a.db", "sqlite://***"],
    ["sqlite:///app:hunter2@h/a.db", "sqlite://***"],
    ["file:app:hunter2@h/a.db", "file://***"],
    ["sqlite:///a.db?key=hunter2", "sqlite:///a.db?key=***"],
    ["mysql+aiomysql://app:hunter2@h/db", "mysql+aiomysql://***"]
  ])("%s is shown as %s", (url, shown) => {
    const messages = refusal(url)
    for (const message of messages) {
      assert(message.endsWith(`, but was given ${shown}`), message)
    }
    assert.notInclude(messages.join("\n"), "hunter2")
  })
})

describe("properties", () => {
  /** Text with everything that means something in a URL. */
  const nasty = FastCheck.string({
    unit: FastCheck.oneof(
      FastCheck.constantFrom(
        ...Array.from("@:/?#%&=+,;[]'\"\\ .~|<>{}^`$!*()"),
        "%40",
        "//",
        "é",
        "\n",
        "\u{1F600}",
        "\u00A0"
      ),
      FastCheck.constantFrom(...Array.from("abcXYZ019"))
    ),
    minLength: 1,
    maxLength: 12
  })
  const line = nasty.map((text) => text.replaceAll("\n", "").trim()).filter((text) => text !== "")

  const host = FastCheck.oneof(
    FastCheck.domain(),
    FastCheck.ipV4(),
    FastCheck.ipV6(),
    FastCheck.constant("fe80::1%eth0"),
    FastCheck.constant("db_1.internal"),
    nasty.map((text) => `/${text}`)
  )
  const certificate = FastCheck.option(line, { nil: undefined })

  const place = FastCheck.record({ host, port: FastCheck.integer({ min: 1, max: 65535 }) })
  const hosts = FastCheck.oneof(
    FastCheck.tuple(place),
    FastCheck.tuple(place, place),
    FastCheck.tuple(place, place, place)
  )

  const postgres: FastCheck.Arbitrary<DatabaseConfig.PostgresTarget> = FastCheck.record({
    _tag: FastCheck.constant("postgres" as const),
    hosts,
    targetSessionAttrs: FastCheck.constantFrom(
      "any" as const,
      "read-write" as const,
      "read-only" as const,
      "primary" as const,
      "standby" as const,
      "prefer-standby" as const
    ),
    database: nasty,
    username: nasty,
    password: FastCheck.option(nasty.map((password) => Redacted.make(password)), { nil: undefined }),
    sslMode: FastCheck.constantFrom(
      "disable" as const,
      "allow" as const,
      "prefer" as const,
      "require" as const,
      "verify-full" as const
    ),
    channelBinding: FastCheck.constantFrom("disable" as const, "prefer" as const, "require" as const),
    sslRootCert: FastCheck.option(line, { nil: undefined }),
    sslCert: certificate,
    sslKey: certificate,
    applicationName: line,
    serverOptions: FastCheck.option(line, { nil: undefined })
  }).filter(({ channelBinding, sslCert, sslKey, sslMode }) =>
    (sslCert === undefined) === (sslKey === undefined) && !(channelBinding === "require" && sslMode === "disable")
  )

  const sqlite: FastCheck.Arbitrary<DatabaseConfig.SqliteTarget> = FastCheck.oneof(
    FastCheck.record({
      _tag: FastCheck.constant("sqlite" as const),
      filename: nasty.filter((text) => text.trim() === text && text !== ""),
      readOnly: FastCheck.boolean(),
      thread: FastCheck.constant("worker" as const)
    }),
    FastCheck.constant({
      _tag: "sqlite" as const,
      filename: ":memory:",
      readOnly: false,
      thread: "main" as const
    })
  )

  it("a target's URL means the target", () => {
    FastCheck.assert(
      FastCheck.property(FastCheck.oneof(postgres, sqlite), (target) => {
        assert.deepStrictEqual(read(Redacted.value(DatabaseConfig.toUrl(target))), plain(target))
      }),
      { numRuns: 1_000 }
    )
  })

  it("and without the password everything but the password", () => {
    FastCheck.assert(
      FastCheck.property(postgres, (target) => {
        assert.deepStrictEqual(read(DatabaseConfig.render(target)), plain({ ...target, password: undefined }))
      }),
      { numRuns: 1_000 }
    )
  })

  const fragment = FastCheck.constantFrom(
    ...Array.from("@:/?#%&=,[]\\ abz019\0"),
    "postgres",
    "postgresql+x:",
    "sqlite",
    "file:",
    "://",
    ":memory:",
    "?sslmode=",
    "&host=",
    "port=",
    "%zz",
    "%FF",
    "[::1]",
    "\uD800"
  )
  const garbage = FastCheck.oneof(
    FastCheck.string({ unit: "binary" }),
    FastCheck.array(fragment, { maxLength: 20 }).map((parts) => parts.join("")),
    FastCheck.tuple(
      FastCheck.constantFrom("postgres://", "postgres:", "sqlite:", "sqlite://", "sqlite:///", "file:", "file://"),
      FastCheck.array(fragment, { maxLength: 20 }).map((parts) => parts.join(""))
    ).map((parts) => parts.join(""))
  )

  it("garbage is refused in clear words or means something that can be written again", () => {
    FastCheck.assert(
      FastCheck.property(garbage, (text) => {
        const result = parse(text)
        if (Either.isRight(result)) {
          assert.deepStrictEqual(read(Redacted.value(DatabaseConfig.toUrl(result.right))), plain(result.right))
        } else {
          for (const message of messages(result.left)) {
            assert.match(message, /^expected .+/s)
          }
        }
      }),
      { numRuns: 2_000 }
    )
  })

  /** Passwords that nothing else in a URL or a message contains. */
  const secret = nasty.map((text) => `Zq${text.replaceAll("\n", "")}7w`)

  const around = (password: string) =>
    FastCheck.constantFrom(
      `postgres://app:${password}@db.example.com:5432/ledger?sslmode=require`,
      `postgresql+asyncpg://app:${password}@a,b:1/ledger`,
      `postgres://app:${password}@[::1]:x/ledger`,
      `postgres://app:${password}@h/ledger?unknown=${password}`,
      `postgres://h/ledger?user=app&password=${password}&sslmode=on`,
      `postgres:///?password=${password}`,
      `sqlite://app:${password}@h/a.db`,
      `mysql://app:${password}@h/db`
    )

  const damaged = secret.chain((password) =>
    FastCheck.tuple(
      FastCheck.oneof(around(password), around(encodeURIComponent(password))),
      FastCheck.double({ min: 0, max: 1, noNaN: true }),
      FastCheck.constantFrom("", "%", "%zz", "@", ":", "/", "?", "#", "[", "]", "&", ",", " ", "\0", "\uD800"),
      FastCheck.boolean()
    ).map(([url, where, insertion, truncate]) => {
      const at = Math.round(where * url.length)
      return { password, url: url.slice(0, at) + insertion + (truncate ? "" : url.slice(at)) }
    })
  )

  it("no output of a damaged URL holds the password", () => {
    FastCheck.assert(
      FastCheck.property(damaged, ({ password, url }) => {
        const options: DatabaseConfig.Options = { url: Redacted.make(url) }
        const result = DatabaseConfig.resolve(options)
        const shown = [outputs(options), outputs(Either.isRight(result) ? result.right : result.left)]
        for (const text of shown) {
          assert.notInclude(text, password)
          assert.notInclude(text, encodeURIComponent(password))
        }
      }),
      { numRuns: 3_000 }
    )
  })
})
