/**
 * Keeps V8's hidden classes of short-lived objects alive.
 *
 * A full garbage collection drops a hidden class of which no object is left, and with it the optimized code that depends
 * on the class. Where such objects exist only while a request is handled, code is slow again after each collection.
 */
const retained: Array<object> = []

/**
 * Retains an object, and so its hidden class, for the life of the process. The object must be created in the same way
 * as all others of its kind, with values of the same types.
 */
export const keepHiddenClass = (object: object): void => {
  retained.push(object)
}
