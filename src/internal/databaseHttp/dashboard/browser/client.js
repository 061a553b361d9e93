/**
 * The script of the page: fetches the data once a second while the page is visible, and shows it. Names and statements
 * are untrusted input. They are added to the page as text only, which the page's Trusted Types policy enforces.
 *
 * @import { Data, Examined, Sample, Server } from "../data.js"
 */
import { showRecentErrors, showSections, showSettingsAndProcess } from "./database.js"
import { byId, bytes, clock, duration, element, rate, say, whole } from "./dom.js"
import { Plot } from "./plot.js"
import { rowsOf, tally } from "./rows.js"
import { showSessions } from "./sessions.js"
import { listenForSorting, showStatements } from "./statements.js"

/** The timeout of a request, and the pause after one that failed, in milliseconds. */
const requestTimeout = 8_000
const pauseAfterFailure = 3_000

/**
 * The growth of a count per second.
 *
 * @type {(count: "committed" | "rolledBack" | "retried", sample: Sample, before: Sample | undefined) => number | undefined}
 */
const growth = (count, sample, before) =>
  before === undefined || sample.time <= before.time
    ? undefined
    : (sample[count] - before[count]) / (sample.time - before.time) * 1_000

const quantiles = ["p50", "p95", "p99"]

const plots = [
  new Plot({
    id: "connections",
    series: ["In use", "Idle", "Waiting"],
    format: whole,
    steps: true,
    values: ({ idle, used, waiting }) => [used, idle, waiting],
    limit: ({ pool }) => pool.maximum,
    none: "No figures yet."
  }),
  new Plot({
    id: "sessions-rate",
    series: ["Committed", "Rolled back", "Retried"],
    format: rate,
    steps: false,
    values: (sample, before) => [
      growth("committed", sample, before),
      growth("rolledBack", sample, before),
      growth("retried", sample, before)
    ],
    none: "No figures yet."
  }),
  new Plot({
    id: "wait",
    series: quantiles,
    format: duration,
    steps: false,
    values: ({ wait }) => wait ?? [],
    none: "Nobody has asked for a connection."
  }),
  new Plot({
    id: "use",
    series: quantiles,
    format: duration,
    steps: false,
    values: ({ use }) => use ?? [],
    none: "No connection was used."
  })
]

const showServers = rowsOf("servers", "", () => {
  const name = element("th", { scope: "row" })
  const role = element("td")
  const state = element("td")
  const timeline = element("td", { class: "number" })
  const lag = element("td", { class: "number" })
  const used = element("td", { class: "number" })
  const idle = element("td", { class: "number" })
  return {
    row: element("tr", {}, [name, role, state, timeline, lag, used, idle]),
    /** @type {(server: Server) => void} */
    update: (server) => {
      say(name, server.name)
      say(role, server.role)
      say(state, server.reason === undefined ? server.state : `${server.state}: ${server.reason}`)
      say(timeline, server.timeline === undefined ? "–" : whole(server.timeline))
      say(lag, server.lag === undefined ? "–" : duration(server.lag))
      say(used, whole(server.used))
      say(idle, whole(server.idle))
    }
  }
})

/** @type {(counts: Readonly<Record<string, number>>) => ReadonlyArray<readonly [string, string]>} */
const byCount = (counts) =>
  Object.entries(counts).sort(([, one], [, other]) => other - one).map(([name, count]) => [name, whole(count)])

const showErrors = tally("errors", "No statement has failed.")
const showRolledBack = tally("rolled-back", "Every session has committed.")
const showRetried = tally("retried", "No session was run again.")
const showPool = tally("pool", "No figures.")

/** The data that the page shows. */
const latest = {
  /** @type {Data | undefined} */
  data: undefined,
  /** @type {ReadonlyArray<Sample>} */
  samples: [],
  /** @type {Examined | undefined} */
  examined: undefined,
  /** @type {NonNullable<Data["settings"]>} */
  settings: []
}

/** @type {(id: string, figure: string, unit?: string) => void} */
const showFigure = (id, figure, unit) => {
  const node = byId(id)
  if (unit === undefined) {
    say(node, figure)
  } else if (node.textContent !== `${figure} ${unit}`) {
    node.replaceChildren(`${figure} `, element("small", {}, [unit]))
  }
}

/** @type {(data: Data, samples: ReadonlyArray<Sample>) => void} */
const showNow = ({ pool }, samples) => {
  const sample = samples[samples.length - 1]
  const before = samples[samples.length - 2]
  showFigure("now-used", whole(pool.used), `of ${whole(pool.maximum)}`)
  showFigure("now-idle", whole(pool.idle))
  showFigure("now-waiting", whole(pool.waiting))
  byId("now-waiting").dataset.state = pool.waiting > 0 ? "bad" : ""
  showFigure("now-wait", sample?.wait === undefined ? "–" : duration(sample.wait[1]))
  showFigure("now-use", sample?.use === undefined ? "–" : duration(sample.use[1]))
  for (const [id, count] of /** @type {const} */ ([
    ["now-committed", "committed"],
    ["now-rolled-back", "rolledBack"],
    ["now-retried", "retried"]
  ])) {
    const value = sample === undefined ? undefined : growth(count, sample, before)
    showFigure(id, value === undefined ? "–" : rate(value), value === undefined ? undefined : "/s")
  }
}

/** @type {(data: Data) => void} */
const showHealth = ({ dialect, health }) => {
  byId("health").dataset.state = health === undefined ? "unknown" : health.healthy ? "good" : "bad"
  say(byId("health-state"), health === undefined ? "Not checked yet" : health.healthy ? "Answers" : "Does not answer")
  say(
    byId("health-detail"),
    health === undefined
      ? ""
      : `${health.healthy ? `in ${duration(health.latency)}` : health.error ?? ""} (${clock(health.checked)})`
  )
  const known = health?.version === undefined ? [] : [health.version, health.role ?? ""]
  say(byId("about"), [dialect, ...known].join(" · "))
  // A single server is described by the rest of the page.
  const servers = health === undefined || health.servers.length < 2 ? [] : health.servers
  byId("cluster").hidden = servers.length === 0
  showServers(servers.map((server) => [server.name, server]))
  document.title = health?.healthy === false ? "✕ Database does not answer" : "Database"
}

/** @type {(data: Data) => void} */
const showTables = (data) => {
  const { errors, health, pool, recentErrors, retried, rolledBack, sessionCount, sessions } = data
  const more = sessionCount > sessions.length ? `, the oldest ${whole(sessions.length)} are shown` : ""
  say(byId("sessions-count"), `${whole(sessionCount)}${more}`)
  // A session without a connection has no id. Sessions are sorted by age, so its position identifies it.
  showSessions(sessions.map((session, index) => [session.id ?? `waiting ${index}`, session]))
  showStatements(data)
  showRecentErrors(recentErrors.map((error) => [JSON.stringify([error.error, error.message, error.session, error.statement]), error]))
  showErrors(byCount(errors))
  showRolledBack(byCount(rolledBack))
  showRetried(byCount(retried))
  showPool([
    ["Connections opened", whole(pool.created)],
    ["Attempts that failed", whole(pool.connectFailures)],
    ...Object.entries(pool.closed).filter(([, count]) => count > 0).map(([reason, count]) =>
      /** @type {const} */ ([`Closed: ${reason}`, whole(count)])
    ),
    ["Connections handed out", whole(pool.checkouts)],
    ["Waits that ran out", whole(pool.timeouts)],
    ...(health?.walSize === undefined ? [] : [/** @type {const} */ (["Write-ahead log", bytes(health.walSize)])])
  ])
}

const show = () => {
  const { data, samples } = latest
  if (data !== undefined) {
    showNow(data, samples)
    showHealth(data)
    plots.forEach((plot) => plot.show(data, samples))
    showTables(data)
    showSections(latest.examined)
    showSettingsAndProcess(data, latest.settings)
  }
}

/** @type {(state: "loading" | "live" | "paused" | "lost", text: string) => void} */
const showStatus = (state, text) => {
  byId("status").dataset.state = state
  say(byId("status"), text)
}

/**
 * Fetches the data. Returns why it could not, or undefined.
 *
 * @returns {Promise<string | undefined>}
 */
const fetchData = async () => {
  const cursor = encodeURIComponent(latest.data?.history.cursor ?? "")
  const response = await fetch(`?data=${cursor}`, {
    cache: "no-store",
    redirect: "manual",
    signal: AbortSignal.timeout(requestTimeout)
  })
  if (response.type === "opaqueredirect" || response.status === 401 || response.status === 403) {
    return "The application no longer lets you in: load the page again."
  }
  if (!response.ok) {
    return `The application answers with ${response.status}.`
  }
  /** @type {Data} */
  const data = await response.json()
  const { complete, samples } = data.history
  latest.samples = (complete ? samples : [...latest.samples, ...samples]).slice(-data.kept)
  latest.data = data
  latest.examined = data.examined ?? latest.examined
  latest.settings = data.settings ?? latest.settings
  return undefined
}

/** @type {ReturnType<typeof setTimeout> | undefined} */
let timer
let isFetching = false
let isPaused = false

/** @type {(problem: string | undefined) => void} */
const showResult = (problem) => {
  if (isPaused) {
    return
  }
  if (problem === undefined) {
    show()
    showStatus("live", "Live")
  } else {
    byId("health").dataset.state = "unknown"
    say(byId("health-state"), "Not known")
    showStatus("lost", latest.data === undefined ? problem : `${problem} Figures of ${clock(latest.data.time)}.`)
  }
}

/** Fetches and shows the data repeatedly, while the page is visible and not paused. */
const poll = async () => {
  clearTimeout(timer)
  if (isFetching || isPaused || document.hidden) {
    return
  }
  isFetching = true
  let wait = pauseAfterFailure
  try {
    const problem = await fetchData()
    if (problem === undefined) {
      wait = (latest.data?.interval ?? 1) * 1_000
    }
    showResult(problem)
  } catch {
    showResult("The application does not answer.")
  }
  isFetching = false
  timer = setTimeout(poll, wait)
}

byId("pause").addEventListener("click", () => {
  isPaused = !isPaused
  byId("pause").setAttribute("aria-pressed", String(isPaused))
  if (isPaused) {
    showStatus("paused", latest.data === undefined ? "Paused" : `Paused at ${clock(latest.data.time)}`)
  }
  void poll()
})

listenForSorting(show)

document.addEventListener("visibilitychange", poll)
void poll()
