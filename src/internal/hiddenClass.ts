/**
 * The shapes of objects that come and go.
 *
 * When V8 goes through the whole heap it forgets a shape of which no object is left at that moment, and with it what it
 * has compiled for that shape: after each pause in which it did so, everything began slowly again.
 */
const kept: Array<object> = []

/** Keeps one object for good, and so its shape. It should have what others of its kind have, of the same types. */
export const keep = (object: object): void => {
  kept.push(object)
}
