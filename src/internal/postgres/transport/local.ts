/**
 * Which connections stay within this machine.
 */

/** Whether it is the directory of a Unix socket, or a loopback address (RFC 1122, RFC 4291) as sockets report it. */
export const isLocal = (host: string): boolean => /^\/|^(?:::ffff:)?127(?:\.\d+){3}$|^::1$/i.test(host)
