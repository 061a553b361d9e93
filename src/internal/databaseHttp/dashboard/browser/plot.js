/**
 * Plots of the last minutes, drawn as SVG, that can be read off with the pointer and with the keyboard.
 *
 * @import { Data, Sample } from "../data.js"
 */
import { byId, clock, drawn, element, say, within } from "./dom.js"

/**
 * One moment in a plot: a value for each of its series, where there is one.
 *
 * @typedef {{ readonly time: number, readonly values: ReadonlyArray<number | undefined> }} Point
 *
 * @typedef {object} PlotOptions
 * @property {string} id The figure that it is drawn into.
 * @property {ReadonlyArray<string>} series Their names.
 * @property {(value: number) => string} format A value as text, with its unit.
 * @property {boolean} steps Whether the values are whole numbers, which jump.
 * @property {(sample: Sample, before: Sample | undefined) => Point["values"]} values One for each series.
 * @property {(data: Data) => number} [limit] What the values do not exceed.
 * @property {string} none What is said where there are no values.
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
 * The time that is read off all plots; undefined for the last one.
 *
 * @type {number | undefined}
 */
let reading

/** @type {Array<Plot>} */
const every = []

/** @type {(time: number | undefined) => void} */
const readAt = (time) => {
  reading = time
  every.forEach((plot) => plot.render())
}

export class Plot {
  /** @type {ReadonlyArray<Point>} */
  #points = []
  /** @type {Data | undefined} */
  #data
  #start = 0
  #span = 1
  #options
  #place
  #summary
  #figures

  /** @param {PlotOptions} options */
  constructor(options) {
    const figure = byId(options.id)
    this.#options = options
    this.#place = within(figure, ".plot")
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
    every.push(this)
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
    const place = this.#place
    place.addEventListener("pointermove", ({ clientX }) => {
      const { left, width } = place.getBoundingClientRect()
      const share = (clientX - left - margin.left) / (width - margin.left - margin.right)
      readAt(share > 1 ? undefined : this.#start + Math.max(0, share) * this.#span)
    })
    place.addEventListener("pointerleave", () => readAt(undefined))
    place.addEventListener("blur", () => readAt(undefined))
    place.addEventListener("keydown", (event) => {
      const last = this.#points.length - 1
      /** @type {Readonly<Record<string, number>>} */
      const moves = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -30, PageUp: 30, Home: -last, End: last }
      if (event.key === "Escape") {
        readAt(undefined)
      } else if (Object.hasOwn(moves, event.key) && last >= 0) {
        event.preventDefault()
        readAt(this.#points[Math.min(last, Math.max(0, this.#read() + moves[event.key]))].time)
      }
    })
    new ResizeObserver(() => this.render()).observe(place)
  }

  /** The index of the point that is read off. */
  #read() {
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
    const index = this.#read()
    const point = points[index]
    this.#figures.forEach((node, at) => {
      const value = point?.values[at]
      say(node, value === undefined ? "–" : format(value))
    })
    this.#place.setAttribute("aria-valuemax", String(Math.max(0, points.length - 1)))
    this.#place.setAttribute("aria-valuenow", String(Math.max(0, index)))
    // Who has the focus there and does not read would be told every second.
    if (point !== undefined && (reading !== undefined || document.activeElement !== this.#place)) {
      const words = series.map((name, at) => {
        const value = point.values[at]
        return `${name} ${value === undefined ? "none" : format(value)}`
      })
      const time = reading === undefined ? "Now" : clock(point.time)
      this.#place.setAttribute("aria-valuetext", `${time}: ${words.join(", ")}`)
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
    const { clientHeight: height, clientWidth: width } = this.#place
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
    const point = reading === undefined ? undefined : points[this.#read()]

    this.#place.replaceChildren(drawn("svg", { "aria-hidden": "true", viewBox: `0 0 ${width} ${height}` }, [
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
      ...series.map((_, at) => line(`series ${styles[at]}`, this.#course(at, data.interval, x, y))).toReversed(),
      ...(point === undefined ? [] : [line("reading", `M${x(point.time)} ${margin.top}V${bottom}`)]),
      ...(points.some((point) => point.values.some((value) => value !== undefined)) ? [] : [
        drawn("text", { x: (margin.left + right) / 2, y: bottom / 2, "text-anchor": "middle" }, [none])
      ])
    ]))
  }

  /**
   * The way of one series. It has gaps where there was no value, or where the application was too busy to look.
   *
   * @type {(at: number, interval: number, x: (time: number) => number, y: (value: number) => number) => string}
   */
  #course(at, interval, x, y) {
    return this.#points.map((point, index) => {
      const value = point.values[at]
      if (value === undefined) {
        return ""
      }
      const before = this.#points[index - 1]
      const left = x(point.time).toFixed(1)
      const down = y(value).toFixed(1)
      // A line without length is a dot: what has no neighbours is seen too.
      return before?.values[at] === undefined || point.time - before.time > interval * 3_500
        ? `M${left} ${down}h0`
        : this.#options.steps
        ? `H${left}V${down}`
        : `L${left} ${down}`
    }).join("")
  }
}
