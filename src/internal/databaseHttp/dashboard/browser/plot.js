/**
 * Plots of the last minutes as SVG. The values at a time can be read with the pointer and with the keyboard.
 *
 * @import { Data, Sample } from "../data.js"
 */
import { byId, clock, drawn, element, say, within } from "./dom.js"

/**
 * A point in time of a plot, with the values of its series.
 *
 * @typedef {{ readonly time: number, readonly values: ReadonlyArray<number | undefined> }} Point
 *
 * @typedef {object} PlotOptions
 * @property {string} id The id of the figure element.
 * @property {ReadonlyArray<string>} series The names of the series.
 * @property {(value: number) => string} format Formats a value with its unit.
 * @property {boolean} steps Whether the values are whole numbers, drawn as steps.
 * @property {(sample: Sample, before: Sample | undefined) => Point["values"]} values The value of each series.
 * @property {(data: Data) => number} [limit] The maximum of the values.
 * @property {string} none The text that is shown without values.
 */

const margin = { top: 8, right: 10, bottom: 20, left: 54 }
const styles = ["first", "second", "third"]

/**
 * Round numbers from zero to at least the maximum.
 *
 * @type {(maximum: number, whole: boolean) => ReadonlyArray<number>}
 */
const ticksTo = (maximum, whole) => {
  const rough = (maximum > 0 ? maximum : 1) / 4
  const power = 10 ** Math.floor(Math.log10(rough))
  const step = Math.max(power * ([1, 2, 5].find((factor) => factor * power >= rough) ?? 10), whole ? 1 : 0)
  return Array.from({ length: Math.max(1, Math.ceil(maximum / step - 1e-9)) + 1 }, (_, index) => index * step)
}

/**
 * The time at which all plots are read; undefined is the latest.
 *
 * @type {number | undefined}
 */
let reading

/** @type {Array<Plot>} */
const allPlots = []

/** @type {(time: number | undefined) => void} */
const readAt = (time) => {
  reading = time
  allPlots.forEach((plot) => plot.render())
}

export class Plot {
  /** @type {ReadonlyArray<Point>} */
  #points = []
  /** @type {Data | undefined} */
  #data
  #start = 0
  #span = 1
  #options
  #area
  #summary
  #figures

  /** @param {PlotOptions} options */
  constructor(options) {
    const figure = byId(options.id)
    this.#options = options
    this.#area = within(figure, ".plot")
    this.#summary = within(figure, ".summary")
    this.#figures = options.series.map((name, index) => {
      const key = drawn("svg", { "aria-hidden": "true", viewBox: "0 0 22 8" }, [
        drawn("path", { class: `series ${styles[index]}`, d: "M2 4H20" })
      ])
      const value = element("b")
      within(figure, ".legend").append(element("li", {}, [key, name, value]))
      return value
    })
    this.#listen()
    allPlots.push(this)
  }

  /** @type {(data: Data, samples: ReadonlyArray<Sample>) => void} */
  show(data, samples) {
    this.#data = data
    this.#span = data.kept * data.interval * 1_000
    this.#start = (samples[samples.length - 1]?.time ?? data.time) - this.#span
    this.#points = samples
      .map((sample, index) => ({ time: sample.time, values: this.#options.values(sample, samples[index - 1]) }))
      .filter(({ time }) => time >= this.#start && time <= this.#start + this.#span)
    this.render()
  }

  render() {
    if (this.#data !== undefined) {
      this.#draw(this.#data)
      this.#describe()
    }
  }

  #listen() {
    const area = this.#area
    area.addEventListener("pointermove", ({ clientX }) => {
      const { left, width } = area.getBoundingClientRect()
      const share = (clientX - left - margin.left) / (width - margin.left - margin.right)
      readAt(share > 1 ? undefined : this.#start + Math.max(0, share) * this.#span)
    })
    area.addEventListener("pointerleave", () => readAt(undefined))
    area.addEventListener("blur", () => readAt(undefined))
    area.addEventListener("keydown", (event) => {
      const last = this.#points.length - 1
      /** @type {Readonly<Record<string, number>>} */
      const moves = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -30, PageUp: 30, Home: -last, End: last }
      if (event.key === "Escape") {
        readAt(undefined)
      } else if (Object.hasOwn(moves, event.key) && last >= 0) {
        event.preventDefault()
        readAt(this.#points[Math.min(last, Math.max(0, this.#readIndex() + moves[event.key]))].time)
      }
    })
    new ResizeObserver(() => this.render()).observe(area)
  }

  /** The index of the point that is read. */
  #readIndex() {
    const time = reading
    const points = this.#points
    return time === undefined ? points.length - 1 : points.reduce(
      (best, point, index) => Math.abs(point.time - time) < Math.abs(points[best].time - time) ? index : best,
      0
    )
  }

  #describe() {
    const { format, none, series } = this.#options
    const points = this.#points
    const index = this.#readIndex()
    const point = points[index]
    this.#figures.forEach((node, at) => {
      const value = point?.values[at]
      say(node, value === undefined ? "–" : format(value))
    })
    this.#area.setAttribute("aria-valuemax", String(Math.max(0, points.length - 1)))
    this.#area.setAttribute("aria-valuenow", String(Math.max(0, index)))
    // A screen reader would announce a changed text every second while the plot has the focus.
    if (point !== undefined && (reading !== undefined || document.activeElement !== this.#area)) {
      const readings = series.map((name, at) => {
        const value = point.values[at]
        return `${name} ${value === undefined ? "none" : format(value)}`
      })
      const time = reading === undefined ? "Now" : clock(point.time)
      this.#area.setAttribute("aria-valuetext", `${time}: ${readings.join(", ")}`)
    }
    const largest = series.flatMap((name, at) => {
      const all = points.flatMap(({ values }) => values[at] ?? [])
      return all.length === 0 ? [] : [`${name} ${format(Math.max(...all))}`]
    })
    const read = reading === undefined || point === undefined ? "" : ` Read at ${clock(point.time)}.`
    say(this.#summary, largest.length === 0 ? none : `At most: ${largest.join(", ")}.${read}`)
  }

  /** @type {(data: Data) => void} */
  #draw(data) {
    const { format, limit, none, series, steps } = this.#options
    const points = this.#points
    const { clientHeight: height, clientWidth: width } = this.#area
    const bound = limit?.(data)
    const values = points.flatMap((point) => point.values.map((value) => value ?? 0))
    const ticks = ticksTo(Math.max(bound ?? 0, ...values), steps)
    const top = ticks[ticks.length - 1]
    const right = width - margin.right
    const bottom = height - margin.bottom

    /** @type {(time: number) => number} */
    const x = (time) => margin.left + (time - this.#start) / this.#span * (right - margin.left)
    /** @type {(value: number) => number} */
    const y = (value) => bottom - value / top * (bottom - margin.top)
    /** @type {(name: string, d: string) => SVGElement} */
    const line = (name, d) => drawn("path", { class: name, d, fill: "none" })
    /** @type {(value: number) => SVGElement} */
    const across = (value) => line(value === 0 ? "axis" : "grid", `M${margin.left} ${y(value).toFixed(1)}H${right}`)

    const minutes = Math.round(this.#span / 60_000)
    const step = width < 400 ? Math.ceil(minutes / 3) : 1
    const marks = Array.from({ length: Math.floor(minutes / step) + 1 }, (_, index) => index * step)
    const point = reading === undefined ? undefined : points[this.#readIndex()]

    this.#area.replaceChildren(drawn("svg", { "aria-hidden": "true", viewBox: `0 0 ${width} ${height}` }, [
      ...ticks.map(across),
      ...ticks.map((tick) =>
        drawn("text", { x: margin.left - 6, y: y(tick) + 4, "text-anchor": "end" }, [format(tick)])
      ),
      ...marks.map((ago) => {
        const anchor = ago === 0 ? "end" : ago === minutes ? "start" : "middle"
        const left = x(this.#start + this.#span - ago * 60_000)
        return drawn("text", { x: left, y: height - 4, "text-anchor": anchor }, [ago === 0 ? "now" : `−${ago} min`])
      }),
      ...(bound === undefined ? [] : [line("limit", `M${margin.left} ${y(bound)}H${right}`)]),
      ...series.map((_, at) => line(`series ${styles[at]}`, this.#path(at, data.interval, x, y))).toReversed(),
      ...(point === undefined ? [] : [line("reading", `M${x(point.time)} ${margin.top}V${bottom}`)]),
      ...(points.some((point) => point.values.some((value) => value !== undefined)) ? [] : [
        drawn("text", { x: (margin.left + right) / 2, y: bottom / 2, "text-anchor": "middle" }, [none])
      ])
    ]))
  }

  /**
   * The path of one series. It has gaps where there is no value, and where the application was too busy to take a sample.
   *
   * @type {(at: number, interval: number, x: (time: number) => number, y: (value: number) => number) => string}
   */
  #path(at, interval, x, y) {
    return this.#points.map((point, index) => {
      const value = point.values[at]
      if (value === undefined) {
        return ""
      }
      const before = this.#points[index - 1]
      const left = x(point.time).toFixed(1)
      const down = y(value).toFixed(1)
      // A point without neighbors is drawn as a line of length 0, which is a dot.
      return before?.values[at] === undefined || point.time - before.time > interval * 3_500
        ? `M${left} ${down}h0`
        : this.#options.steps
        ? `H${left}V${down}`
        : `L${left} ${down}`
    }).join("")
  }
}
