/**
 * The dashboard in a real browser.
 */
import * as HttpServerRequest from "@effect/platform/HttpServerRequest"
import * as HttpServerResponse from "@effect/platform/HttpServerResponse"
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import * as Fs from "node:fs"
import { type Browser, type BrowserContextOptions, chromium, type Page } from "playwright-core"
import * as Database from "../../../src/Database.js"
import { make, postgres, sqliteFile } from "../../support/dialects.js"
import { eventually } from "../../support/eventually.js"
import { cluster } from "../../support/postgres.js"
import { hostile, load, serve } from "./dashboardApp.js"

const executablePath = process.env.CHROMIUM_PATH ?? "/usr/bin/chromium"
const isCi = process.env.CI !== undefined && process.env.CI !== "" && process.env.CI !== "false"

/** A page, and what went wrong on it or was asked of others. */
interface Visit {
  readonly page: Page
  readonly requests: Array<string>
  readonly complaints: Array<string>
}

/** Runs in the page, of whose types this program knows nothing. */
const inPage = <A>(page: Page, script: string): Effect.Effect<A> => Effect.promise(() => page.evaluate(script)) as any

let browser: Browser

/** Visits the address as one who has never been there. */
const visit = (url: string, options: BrowserContextOptions = {}): Effect.Effect<Visit, never, Scope.Scope> =>
  Effect.gen(function*() {
    const context = yield* Effect.acquireRelease(
      Effect.promise(() => browser.newContext({ viewport: { width: 1280, height: 900 }, ...options })),
      (context) => Effect.promise(() => context.close())
    )
    const page = yield* Effect.promise(() => context.newPage())
    const requests: Array<string> = []
    const complaints: Array<string> = []
    page.on("request", (request) => requests.push(request.url()))
    page.on("console", (message) => complaints.push(message.text()))
    page.on("pageerror", (error) => complaints.push(String(error)))
    yield* Effect.promise(() => page.goto(url))
    return { page, requests, complaints }
  })

const text = (page: Page, selector: string): Effect.Effect<string> =>
  Effect.promise(async () => (await page.textContent(selector)) ?? "")

const becomes = (page: Page, selector: string, expected: RegExp): Effect.Effect<void> =>
  eventually(Effect.map(text(page, selector), (found) => expected.test(found)), { timeout: "20 seconds" })

const open = { guard: Effect.succeed(true) }

/** A loaded application, and a visit once it shows what happens. */
const busy = (options: BrowserContextOptions = {}) =>
  Effect.gen(function*() {
    const database = yield* make(postgres, { poolSize: 2, poolMaxOverflow: 0 })
    yield* load(database)
    const visited = yield* visit(`${yield* serve(database, open)}/admin/database`, options)
    yield* becomes(visited.page, "#retried tbody", /SerializationFailure/)
    yield* becomes(visited.page, "#health-state", /^Answers$/)
    return visited
  })

/** The contrast of all text, and of the lines of plots, with what is behind it. */
const contrasts = `(() => {
  const parse = (color) => color.match(/[\\d.]+/g).map(Number)
  const luminance = ([r, g, b]) => [r, g, b].map((value) => value / 255)
    .map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
    .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0)
  const behind = (node) => {
    for (let at = node; at !== null; at = at.parentElement) {
      const [r, g, b, a = 1] = parse(getComputedStyle(at).backgroundColor)
      if (a === 1) return [r, g, b]
    }
    return [255, 255, 255]
  }
  const contrast = (node, color) => {
    const ground = node.matches(".mark") ? node.parentElement : node
    const [one, other] = [luminance(parse(color)), luminance(behind(ground))].sort((a, b) => b - a)
    return (one + 0.05) / (other + 0.05)
  }
  const texts = [...document.querySelectorAll("body *")].filter((node) =>
    [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim() !== "")
    && node.checkVisibility() && !node.closest("noscript"))
  const named = (node, value) => [node.tagName + "." + node.className + "#" + node.id, value]
  return {
    texts: texts.map((node) => named(node, contrast(node, node.closest("svg") ? getComputedStyle(node).fill : getComputedStyle(node).color))),
    lines: [...document.querySelectorAll(".series, .axis, button, .mark")].filter((node) => node.checkVisibility())
      .map((node) => named(node, contrast(node, node.closest("svg") ? getComputedStyle(node).stroke : getComputedStyle(node).borderTopColor)))
  }
})()`

/** What has the focus: what it is called, and whether that is seen. */
const focused = `(() => {
  const node = document.activeElement
  if (node === null || node === document.body) return undefined
  const style = getComputedStyle(node)
  const { bottom, height, right, top, width } = node.getBoundingClientRect()
  return {
    name: node.id || node.dataset.sort || node.getAttribute("aria-labelledby") || node.textContent,
    outlined: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
    seen: width > 0 && height > 0 && bottom > 0 && right > 0 && top < innerHeight
  }
})()`

describe.skipIf(!isCi && !Fs.existsSync(executablePath))("the dashboard's page", () => {
  beforeAll(async () => {
    browser = await chromium.launch({
      executablePath,
      headless: true,
      args: [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync"
      ]
    })
  })
  afterAll(() => browser?.close())

  it.scopedLive(
    "shows figures that move, asks nobody else, and lets no name or statement take it over",
    () =>
      Effect.gen(function*() {
        const { complaints, page, requests } = yield* busy()
        yield* becomes(page, "#status", /^Live$/)
        yield* becomes(page, "#sessions tbody", /onerror/)
        yield* becomes(page, "#sessions tbody", /a connection/)
        yield* becomes(page, "#statements tbody", /pg_sleep\(0\.1\), \$1/)
        yield* becomes(page, "#statements tbody", /<img src=x onerror="document\.title=''taken''">/)
        yield* becomes(page, "#errors tbody", /UniqueViolation[1-9]/)
        yield* becomes(page, "#rolled-back tbody", /failure[1-9]/)
        yield* becomes(page, "#now-used", /^[12] of 2$/)
        yield* becomes(page, "#about", /^postgres · \d+\.\d+.* · primary$/)
        yield* becomes(page, "#wait .legend", /p50[\d.]+ .?sp95[\d.]+ .?sp99[\d.]+ .?s/)
        yield* becomes(page, "#connections .summary", /^At most: In use 2, Idle \d, Waiting [1-9]\.$/)
        const drawn = `[...document.querySelectorAll(".plot .series")].map((line) => line.getAttribute("d"))`
        const before = yield* inPage<ReadonlyArray<string>>(page, drawn)
        const runs = yield* text(page, "#statements tbody tr:first-child")
        assert.lengthOf(before, 12)
        yield* eventually(Effect.map(
          inPage<ReadonlyArray<string>>(page, drawn),
          (after) => after.every((d, index) => d !== "" && d !== before[index])
        ))
        assert.notStrictEqual(yield* text(page, "#statements tbody tr:first-child"), runs)

        assert.isFalse(yield* inPage<boolean>(page, `document.querySelector("img, td script, th script") !== null`))
        assert.strictEqual(yield* Effect.promise(() => page.title()), "Database")
        assert.include(yield* text(page, "#statements tbody"), hostile.slice(0, 10))
        assert.deepStrictEqual([...new Set(requests.map((url) => new URL(url).host))], [new URL(page.url()).host])
        assert.isTrue(requests.every((url) => new URL(url).pathname === "/admin/database"), requests.join())
        assert.deepStrictEqual(complaints, [])
        assert.match(
          yield* inPage<string>(
            page,
            `try { document.body.innerHTML = "<b>"; "allowed" } catch (error) { String(error) }`
          ),
          /TrustedHTML/
        )
      }),
    240_000
  )

  it.scopedLive("is walked through with the keyboard alone, and the focus is seen", () =>
    Effect.gen(function*() {
      const { page } = yield* busy()
      const press = (key: string) => Effect.promise(() => page.keyboard.press(key))
      yield* becomes(page, "#own-statements tbody", /to_regclass/)
      type Focus = { readonly name: string; readonly outlined: boolean; readonly seen: boolean }
      const walk: Array<string> = []
      for (let step = 0; step < 60; step++) {
        yield* press("Tab")
        const focus = yield* inPage<Focus | undefined>(page, focused)
        if (focus === undefined) {
          break
        }
        walk.push(focus.name)
        assert.deepInclude(focus, { outlined: true, seen: true })
      }
      const once = walk.filter((name) => name !== "Show all")
      assert.deepStrictEqual(once, [
        "Skip to the figures",
        "pause",
        "connections-title",
        "sessions-rate-title",
        "wait-title",
        "use-title",
        "sessions-title",
        "statements-title",
        "p95",
        "longest",
        "mean",
        "total",
        "count",
        "recent-errors-title",
        "own-statements-title"
      ])

      const read = inPage<string>(page, `document.activeElement.getAttribute("aria-valuetext")`)
      yield* Effect.promise(() => page.focus("#connections .plot"))
      yield* press("Home")
      assert.match(yield* read, /^\d\d:\d\d:\d\d: In use \d, Idle \d, Waiting \d$/)
      assert.strictEqual(yield* Effect.promise(() => page.locator(".plot .reading").count()), 4)
      assert.match(yield* text(page, "#use .summary"), /Read at \d\d:\d\d:\d\d\.$/)
      const first = yield* read
      yield* press("ArrowRight")
      assert.notStrictEqual((yield* read).slice(0, 8), first.slice(0, 8))
      yield* press("Escape")
      assert.strictEqual(yield* Effect.promise(() => page.locator(".plot .reading").count()), 0)

      yield* Effect.promise(() => page.focus("[data-sort=count]"))
      yield* press("Enter")
      const counts = inPage<ReadonlyArray<number>>(
        page,
        `[...document.querySelectorAll("#statements tbody tr")].map((row) => Number(row.lastChild.textContent.replace(/,/g, "")))`
      )
      assert.strictEqual(
        yield* Effect.promise(() => page.getAttribute("th:has([data-sort=count])", "aria-sort")),
        "descending"
      )
      const descending = yield* counts
      assert.deepStrictEqual(descending, descending.toSorted((one, other) => other - one))
      yield* press("Enter")
      const ascending = yield* counts
      assert.deepStrictEqual(ascending, ascending.toSorted((one, other) => one - other))
      assert.isAbove(ascending.length, 2)
    }), 240_000)

  it.scopedLive("can be read where it is light and where it is dark", () =>
    Effect.gen(function*() {
      const { page } = yield* busy()
      yield* becomes(page, "#section-connections tbody", /max_connections/)
      yield* becomes(page, "#recent-errors tbody", /UniqueViolation/)
      for (const colorScheme of ["light", "dark"] as const) {
        yield* Effect.promise(() => page.emulateMedia({ colorScheme }))
        type Contrasts = Readonly<Record<"texts" | "lines", ReadonlyArray<readonly [string, number]>>>
        const { lines, texts } = yield* inPage<Contrasts>(page, contrasts)
        assert.isAbove(texts.length, 60)
        assert.isAbove(lines.length, 20)
        assert.deepStrictEqual(texts.filter(([, contrast]) => contrast < 4.5), [])
        assert.deepStrictEqual(lines.filter(([, contrast]) => contrast < 3), [])
        const ground = yield* inPage<string>(page, `getComputedStyle(document.documentElement).backgroundColor`)
        assert.strictEqual(Number(/\d+/.exec(ground)) < 128, colorScheme === "dark")
      }
    }), 240_000)

  it.scopedLive("fits a phone's screen with every column", () =>
    Effect.gen(function*() {
      const { page } = yield* busy({ viewport: { width: 360, height: 740 } })
      yield* becomes(page, "#section-connections tbody", /max_connections/)
      yield* becomes(page, "#recent-errors tbody", /UniqueViolation/)
      const scrollWidth = inPage<number>(page, "document.documentElement.scrollWidth")
      for (const width of [390, 360]) {
        yield* Effect.promise(() => page.setViewportSize({ width, height: 740 }))
        assert.isAtMost(yield* scrollWidth, width)
      }
      const plot = yield* inPage<number>(page, `document.querySelector(".plot svg").getBoundingClientRect().width`)
      assert.isAbove(plot, 250)
      type Cell = { readonly table: string; readonly label: string; readonly shown: string; readonly fits: boolean }
      const cells = yield* inPage<ReadonlyArray<Cell>>(
        page,
        `[...document.querySelectorAll(".rows tbody td")].filter((cell) => cell.checkVisibility()).map((cell) => {
            const { height, left, right } = cell.getBoundingClientRect()
            const label = cell.closest("table").tHead.rows[0].cells[cell.cellIndex].textContent.trim()
            const shown = getComputedStyle(cell, "::before").content
            return { table: cell.closest("table").id, label, shown, fits: height > 0 && left >= 0 && right <= innerWidth }
          })`
      )
      assert.deepStrictEqual(cells.filter(({ fits, label, shown }) => !fits || shown !== JSON.stringify(label)), [])
      for (
        const [table, columns] of [
          ["sessions", ["Age", "Waits for"]],
          ["statements", ["p95", "Longest", "Mean", "Total", "Runs"]],
          ["recent-errors", ["Last at", "Count", "Session", "Statement"]],
          ["section-connections", ["Number", "Of max_connections"]]
        ] as const
      ) {
        const labels = new Set(cells.filter((cell) => cell.table === table).map(({ label }) => label))
        assert.sameMembers(Array.from(labels), [...columns])
      }
      const roles = yield* inPage<ReadonlyArray<string | null>>(
        page,
        `["#sessions", "#sessions tbody tr", "#sessions tbody th", "#sessions tbody td", "#sessions thead th"]
            .map((selector) => document.querySelector(selector).getAttribute("role"))`
      )
      assert.deepStrictEqual(roles, ["table", "row", "rowheader", "cell", "columnheader"])
      const more = page.locator(".more:visible").first()
      yield* Effect.promise(() => more.click())
      assert.strictEqual(yield* Effect.promise(() => page.locator("code.open").count()), 1)
      assert.isAtMost(yield* scrollWidth, 360)
    }), 240_000)

  it.scopedLive(
    "shows who holds a lock, what has failed, and the plan of a statement by keyboard",
    () =>
      Effect.gen(function*() {
        const database = yield* make(postgres)
        const { sql } = database
        yield* sql`CREATE TABLE account (id integer PRIMARY KEY)`
        yield* sql`INSERT INTO account VALUES (1)`
        yield* Effect.exit(database.session(sql`INSERT INTO account VALUES (${1})`, { name: "sign up" }))
        yield* sql`SELECT id FROM account WHERE id IN ${sql.in([1, 2, 3])}`
        const { complaints, page } = yield* visit(
          `${yield* serve(database, { ...open, explain: true })}/admin/database`
        )
        const holder = yield* database.acquireSession({ name: "close the books" })
        yield* holder.run(sql`UPDATE account SET id = 1`)
        const waiting = yield* Effect.fork(database.session(sql`DELETE FROM account`, { name: "tidy up" }))
        yield* becomes(page, "#sessions tbody", /a lock: ShareLock on a row of account, for /)
        yield* becomes(
          page,
          "#sessions tbody",
          /Held by process \d+, session close the books \(.*\), idle in transaction/
        )
        yield* becomes(page, "#recent-errors tbody", /UniqueViolation.*sign up.*INSERT INTO account VALUES \(\$1\)/)
        yield* becomes(page, "#statements tbody", /id IN \(\$1\).*outside of a session 1/)
        yield* becomes(page, "#section-dead-tuples tbody", /account/)
        yield* becomes(page, "#settings tbody", /poolSize5/)
        const row = page.locator("#statements tbody tr", { hasText: "id IN ($1)" })
        yield* Effect.promise(() => row.locator(".plan").focus())
        yield* Effect.promise(() => page.keyboard.press("Enter"))
        const plan = Effect.promise(async () => (await row.locator("pre").textContent()) ?? "")
        yield* eventually(Effect.map(plan, (text) => /on account/.test(text) && /\$1/.test(text)), {
          timeout: "20 seconds"
        })
        assert.strictEqual(yield* Effect.promise(() => row.locator(".plan").getAttribute("aria-expanded")), "true")
        yield* Effect.promise(() => page.keyboard.press("Enter"))
        assert.isFalse(yield* Effect.promise(() => row.locator("pre").isVisible()))
        yield* holder.rollback
        yield* Fiber.join(waiting)
        assert.deepStrictEqual(complaints, [])
      }),
    240_000
  )

  it.scopedLive("says that there is nothing to show, in whatever path it is mounted", () =>
    Effect.gen(function*() {
      const address = yield* serve(yield* make(sqliteFile), open)
      const { complaints, page } = yield* visit(`${address}/admin/database/?from=login#main`)
      yield* becomes(page, "#status", /^Live$/)
      assert.strictEqual(yield* text(page, "#sessions-empty"), "No session is open.")
      assert.strictEqual(yield* text(page, "#statements-empty"), "No statement has run.")
      assert.strictEqual(yield* text(page, "#errors-empty"), "No statement has failed.")
      assert.isFalse(yield* Effect.promise(() => page.isVisible("#sessions")))
      yield* becomes(page, "#health-state", /^Answers$/)
      assert.deepStrictEqual(complaints, [])
    }), 240_000)

  it.scopedLive("shows the servers of a cluster, and what becomes of them", () =>
    Effect.gen(function*() {
      const servers = yield* cluster({ standbys: 1 })
      const [port, standby] = [servers.primary().port, servers.standbys()[0].port]
      const database = yield* Database.make({ url: servers.url, hostRecheck: "200 millis" })
      const { complaints, page } = yield* visit(`${yield* serve(database, open)}/admin/database`)
      yield* becomes(page, "#servers tbody", new RegExp(`127\\.0\\.0\\.1:${port}writerup1–`))
      yield* becomes(page, "#servers tbody", new RegExp(`127\\.0\\.0\\.1:${standby}standbyup1[\\d.]+`))
      assert.isTrue(yield* inPage<boolean>(page, `document.querySelector("#cluster").checkVisibility()`))
      yield* becomes(page, "#section-replication tbody", /standby.*streaming.*async/)
      yield* servers.primary().kill
      yield* becomes(page, "#servers tbody", new RegExp(`127\\.0\\.0\\.1:${port}unknowndown: `))
      yield* becomes(page, "#health-state", /^Does not answer$/)
      assert.deepStrictEqual(complaints, [])

      const single = yield* visit(`${yield* serve(yield* make(postgres), open)}/admin/database`)
      yield* becomes(single.page, "#health-state", /^Answers$/)
      assert.isFalse(yield* inPage<boolean>(single.page, `document.querySelector("#cluster").checkVisibility()`))
    }), 240_000)

  it.scopedLive("asks no more while it is paused or hidden", () =>
    Effect.gen(function*() {
      const address = yield* serve(yield* make(sqliteFile), open)
      const { page, requests } = yield* visit(`${address}/admin/database`)
      yield* becomes(page, "#status", /^Live$/)
      const quiet = Effect.gen(function*() {
        yield* Effect.sleep("500 millis")
        const before = requests.length
        yield* Effect.sleep("1700 millis")
        assert.strictEqual(requests.length, before)
      })
      const goesOn = Effect.suspend(() => {
        const before = requests.length
        return eventually(Effect.sync(() => requests.length > before + 1))
      })
      yield* goesOn
      yield* Effect.promise(() => page.click("#pause"))
      assert.match(yield* text(page, "#status"), /^Paused at \d\d:\d\d:\d\d$/)
      yield* quiet
      assert.match(yield* text(page, "#status"), /^Paused at \d\d:\d\d:\d\d$/)
      yield* Effect.promise(() => page.click("#pause"))
      yield* goesOn
      const hide = (hidden: boolean) =>
        inPage<void>(
          page,
          `Object.defineProperty(document, "hidden", { configurable: true, get: () => ${hidden} })
           document.dispatchEvent(new Event("visibilitychange"))`
        )
      yield* hide(true)
      yield* quiet
      yield* hide(false)
      yield* goesOn
      yield* becomes(page, "#status", /^Live$/)
    }), 240_000)

  it.scopedLive(
    "says when the application is gone or lets nobody in, and goes on when it is back",
    () =>
      Effect.gen(function*() {
        const database = yield* make(sqliteFile)
        const scope = yield* Scope.make()
        let isOpen = true
        const guard = Effect.map(HttpServerRequest.HttpServerRequest, ({ headers }) =>
          headers.authorization === `Basic ${btoa("ada:lovelace")}`
            ? isOpen
            : HttpServerResponse.empty({ status: 401, headers: { "www-authenticate": "Basic realm=\"database\"" } }))
        const address = yield* Scope.extend(serve(database, { guard }), scope)
        const { page } = yield* visit(`${address}/admin/database`, {
          httpCredentials: { username: "ada", password: "lovelace" }
        })
        yield* becomes(page, "#status", /^Live$/)
        isOpen = false
        yield* becomes(page, "#status", /^The application no longer lets you in: .* Figures of \d\d:\d\d:\d\d\.$/)
        isOpen = true
        yield* becomes(page, "#status", /^Live$/)
        yield* Scope.close(scope, Exit.void)
        yield* becomes(page, "#status", /^The application does not answer\. Figures of \d\d:\d\d:\d\d\.$/)
        assert.include(yield* text(page, "#about"), "sqlite")
        assert.strictEqual(yield* text(page, "#health-state"), "Not known")
      }),
    240_000
  )
})
