/**
 * Draws the results as an SVG: a panel for each workload at the concurrencies that it has plotted, and a bar for each peer.
 */
import { type Column, heading, ratios, short } from "./report.js"

const panelsInRow = 3
const panelWidth = 330
const nameWidth = 150
const barWidth = 125
const lineHeight = 16
const gap = 34

// Readable on a light and on a dark background.
const style = `
  text { font: 11px system-ui, sans-serif; fill: #333 }
  .dialect { font-weight: 600; font-size: 15px }
  .title { font-weight: 600; font-size: 12px }
  .bar { fill: #9aa4b2 }
  .sqlayer { fill: #2f7ed8 }
  .one { stroke: #777; stroke-dasharray: 2 2 }
  @media (prefers-color-scheme: dark) {
    text { fill: #ddd }
    .bar { fill: #5f6b7a }
    .sqlayer { fill: #5aa2f0 }
    .one { stroke: #999 }
  }`

const escaped = (text: string): string => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;")

const text = (x: number, y: number, content: string, attributes = ""): string =>
  `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}"${attributes}>${escaped(content)}</text>`

const panel = (column: Column, left: number, top: number): string => {
  const bars = [...ratios(column)]
  const scale = barWidth / Math.max(...bars.map(([, { median }]) => median))
  const origin = left + nameWidth
  const elements = bars.map(([name, { median }], i) => {
    const y = top + gap / 2 + i * lineHeight
    const width = Math.max(1, median * scale)
    const kind = name.startsWith("sqlayer") ? "bar sqlayer" : "bar"
    return [
      text(origin - 6, y + 11, name, ` text-anchor="end"`),
      `<rect class="${kind}" x="${origin}" y="${y + 2}" width="${width.toFixed(1)}" height="${lineHeight - 4}"/>`,
      text(origin + width + 5, y + 11, short(median))
    ].join("\n")
  })
  const one = (origin + scale).toFixed(1)
  const bottom = top + gap / 2 + bars.length * lineHeight
  return [
    text(left, top + 10, heading(column), ` class="title"`),
    ...elements,
    `<line class="one" x1="${one}" y1="${top + gap / 2}" x2="${one}" y2="${bottom}"/>`
  ].join("\n")
}

/** The SVG document. */
export const plot = (columns: ReadonlyArray<Column>): string => {
  const panels: Array<string> = []
  let top = 8
  for (const dialect of new Set(columns.map((column) => column.dialect))) {
    const own = columns.filter((column) =>
      column.dialect === dialect && column.workload.plotted.includes(column.concurrency)
    )
    panels.push(text(8, top + 14, dialect, ` class="dialect"`))
    top += 26
    for (let i = 0; i < own.length; i += panelsInRow) {
      const row = own.slice(i, i + panelsInRow)
      panels.push(...row.map((column, j) => panel(column, 8 + j * panelWidth, top)))
      top += gap + Math.max(...row.map(({ results }) => results.size)) * lineHeight
    }
  }
  const width = 16 + panelsInRow * panelWidth
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${top}" width="${width}" height="${top}">
<title>Operations per second, relative to the bare library</title>
<style>${style}
</style>
${panels.join("\n")}
</svg>
`
}
