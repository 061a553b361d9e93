/**
 * The encoding of migrations in files: UTF-8, with or without a byte order mark.
 */

const zeroCount = (bytes: Uint8Array, offset: 0 | 1): number => {
  let count = 0
  for (let i = offset; i < bytes.length; i += 2) {
    count += bytes[i] === 0 ? 1 : 0
  }
  return count
}

/** The encoding that a byte order mark names, or that the positions of zero bytes suggest, if it is not UTF-8. */
const wideEncoding = (bytes: Uint8Array): string | undefined => {
  const [a, b, c, d] = bytes
  if (a === 0xff && b === 0xfe) {
    return c === 0 && d === 0 ? "UTF-32LE" : "UTF-16LE"
  }
  if (a === 0xfe && b === 0xff) {
    return "UTF-16BE"
  }
  if (a === 0 && b === 0 && c === 0xfe && d === 0xff) {
    return "UTF-32BE"
  }
  const [even, odd] = [zeroCount(bytes, 0), zeroCount(bytes, 1)]
  // In UTF-8 a zero byte is the character NUL, which SQL does not contain; in UTF-16 each character of ASCII has one.
  return Math.max(even, odd) * 8 < bytes.length || even === odd ? undefined : even > odd ? "UTF-16BE" : "UTF-16LE"
}

const lineOf = (bytes: Uint8Array, index: number): number => {
  let line = 1
  for (let i = 0; i < index; i++) {
    line += bytes[i] === 0x0a ? 1 : 0
  }
  return line
}

/** The index of the first byte that is not part of a character of UTF-8. */
const invalidIndex = (bytes: Uint8Array): number => {
  let [low, high] = [0, bytes.length]
  while (low < high) {
    const middle = (low + high + 1) >> 1
    try {
      new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(0, middle), { stream: true })
      low = middle
    } catch {
      high = middle - 1
    }
  }
  return low
}

/** The text of a file, or what its encoding seems to be if that is not UTF-8. */
export const decode = (
  bytes: Uint8Array
): { readonly _tag: "Text"; readonly text: string } | { readonly _tag: "NotUtf8"; readonly encoding: string } => {
  const wide = wideEncoding(bytes)
  if (wide !== undefined) {
    return { _tag: "NotUtf8", encoding: wide }
  }
  try {
    return { _tag: "Text", text: new TextDecoder("utf-8", { fatal: true }).decode(bytes) }
  } catch {
    const index = invalidIndex(bytes)
    // Latin-1 has control characters there, which no text contains.
    const encoding = bytes.some((byte) => byte >= 0x80 && byte < 0xa0) ? "Windows-1252" : "Latin-1"
    const byte = (bytes[index] ?? bytes[bytes.length - 1]).toString(16).toUpperCase()
    return { _tag: "NotUtf8", encoding: `${encoding}, probably (byte 0x${byte} on line ${lineOf(bytes, index)})` }
  }
}
