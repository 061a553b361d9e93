/**
 * The HTML of the page, which the script fills.
 */

/** The element of a plot. The script draws into it, and describes the plot in words. */
const plot = (id: string, title: string): string => `
      <figure class="panel" id="${id}">
        <figcaption>
          <h3 id="${id}-title">${title}</h3>
          <ul class="legend"></ul>
        </figcaption>
        <div class="plot" role="slider" tabindex="0" aria-labelledby="${id}-title" aria-describedby="${id}-summary"
          aria-valuemin="0" aria-valuemax="0" aria-valuenow="0" aria-valuetext="No figures yet"></div>
        <p class="summary" id="${id}-summary">No figures yet.</p>
      </figure>`

const figure = (id: string, name: string): string => `<div><dt>${name}</dt><dd id="${id}">–</dd></div>`

const sortable = (key: string, name: string, sort: string): string =>
  `<th scope="col" class="number" aria-sort="${sort}"><button type="button" data-sort="${key}">${name}</button></th>`

const tally = (id: string, title: string, name: string, figure = "Count"): string => `
      <section class="panel" aria-labelledby="${id}-title">
        <h2 id="${id}-title">${title}</h2>
        <table id="${id}">
          <thead><tr><th scope="col">${name}</th><th scope="col" class="number">${figure}</th></tr></thead>
          <tbody></tbody>
        </table>
        <p class="empty" id="${id}-empty">Loading…</p>
      </section>`

/** A table, with the text that is shown without rows. */
const table = (id: string, title: string, headers: string, sortable = ""): string => `
      <h2 id="${id}-title">${title}</h2>
      <div class="scroll" role="region" tabindex="0" aria-labelledby="${id}-title">
        <table id="${id}" class="rows${sortable}">
          <thead><tr>${headers}</tr></thead>
          <tbody></tbody>
        </table>
      </div>
      <p class="empty" id="${id}-empty">Loading…</p>`

const column = (name: string): string => `<th scope="col">${name}</th>`
const number = (name: string): string => `<th scope="col" class="number">${name}</th>`

export const page = `<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <meta name="color-scheme" content="light dark">
  <meta name="robots" content="noindex">
  <title>Database</title>
  <link rel="icon" type="image/svg+xml" href="?icon">
  <link rel="stylesheet" href="?style">
  <script type="module" src="?script"></script>
</head>
<body>
  <a class="skip" href="#main">Skip to the figures</a>
  <header>
    <div class="head">
      <h1>Database</h1>
      <p id="about"></p>
      <p class="health" id="health" data-state="unknown"><span class="mark" aria-hidden="true"></span><span
        id="health-state" role="status">Not checked yet</span> <span id="health-detail"></span></p>
      <div class="control">
        <p id="status" role="status" data-state="loading">Loading…</p>
        <button type="button" id="pause" aria-pressed="false">Pause</button>
      </div>
    </div>
    <noscript><p class="notice">This page needs its script to show figures.</p></noscript>
  </header>
  <main id="main" tabindex="-1">
    <section aria-labelledby="now-title">
      <h2 class="hidden" id="now-title">Now</h2>
      <dl class="figures panel">
        ${figure("now-used", "Connections in use")}
        ${figure("now-idle", "Idle")}
        ${figure("now-waiting", "Waiting")}
        ${figure("now-wait", "Wait, p95")}
        ${figure("now-use", "Use, p95")}
        ${figure("now-committed", "Committed")}
        ${figure("now-rolled-back", "Rolled back")}
        ${figure("now-retried", "Retried")}
      </dl>
    </section>
    <section aria-labelledby="past-title">
      <h2 id="past-title">Last five minutes</h2>
      <div class="plots">${plot("connections", "Connections")}${plot("sessions-rate", "Sessions a second")}${
  plot("wait", "Wait for a connection")
}${plot("use", "Use of a connection")}
      </div>
    </section>
    <section class="panel" id="cluster" aria-labelledby="servers-title" hidden>${
  table(
    "servers",
    "Servers",
    column("Server") + column("Role") + column("State") + number("Timeline") + number("Behind") + number("In use") +
      number("Idle")
  )
}
    </section>
    <section class="panel" aria-labelledby="sessions-title">${
  table(
    "sessions",
    "Open sessions <span class=\"count\" id=\"sessions-count\"></span>",
    column("Session") + number("Age") + column("Waits for")
  )
}
    </section>
    <section class="panel" aria-labelledby="statements-title">${
  table(
    "statements",
    "Slowest statements",
    column("Statement") + sortable("p95", "p95", "none") + sortable("longest", "Longest", "descending") +
      sortable("mean", "Mean", "none") + sortable("total", "Total", "none") + sortable("count", "Runs", "none"),
    " sortable"
  )
}
    </section>
    <section class="panel" aria-labelledby="recent-errors-title">${
  table(
    "recent-errors",
    "Recent errors",
    column("Error") + column("Last at") + number("Count") + column("Session") + column("Statement")
  )
}
    </section>
    <div class="tallies">${tally("errors", "Failed statements", "Error")}${
  tally("rolled-back", "Rolled back", "Reason")
}${tally("retried", "Retried", "Error")}${tally("pool", "Pool", "Since it was opened")}
    </div>
    <section aria-labelledby="sections-title">
      <h2 id="sections-title">Database <span class="count" id="sections-time"></span></h2>
      <div class="sections" id="sections"></div>
    </section>
    <section class="panel" id="own" aria-labelledby="own-statements-title" hidden>${
  table(
    "own-statements",
    "Statements of sqlayer's own",
    column("Statement") + number("p95") + number("Longest") + number("Mean") + number("Total") + number("Runs")
  )
}
    </section>
    <div class="tallies">${tally("settings", "Process and settings", "Setting", "Value")}
    </div>
  </main>
</body>
</html>
`

export const icon = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">
<path fill="#2b6cb0" d="M2 4v8c0 1.7 2.7 3 6 3s6-1.3 6-3V4z"/><ellipse cx="8" cy="4" rx="6" ry="3" fill="#90cdf4"/></svg>
`
