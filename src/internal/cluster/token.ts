/**
 * The text of a position, as a token that is carried to another process.
 */
import type { Position } from "../driver.js"

/** The cluster's number, and the timeline and the offset in hexadecimal digits. */
export const pattern = /^([0-9]{1,20})\.([0-9a-f]{1,8})\.([0-9a-f]{1,16})$/

export const format = ({ offset, system, timeline }: Position): string =>
  `${system}.${timeline.toString(16)}.${offset.toString(16)}`

/** Undefined if the text is no token. */
export const parse = (text: string): Position | undefined => {
  const [, system, timeline, offset] = pattern.exec(text) ?? []
  return system === undefined
    ? undefined
    : { system, timeline: Number.parseInt(timeline, 16), offset: BigInt(`0x${offset}`) }
}
