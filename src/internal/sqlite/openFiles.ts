/**
 * The transports that have a file open, of all databases of this process.
 */
import { identityOf, none, walIdentityOf } from "./fileIdentity.js"
import type { OpenedFile } from "./protocol.js"
import { describeStaleWal, setAsideWal } from "./staleWal.js"
import type { Transport } from "./transport.js"

/** The file that a transport has open, and its WAL, by their identities. */
interface Opened {
  readonly filename: string
  readonly file: string
  readonly wal: string | undefined
}

/** A transport that has not ended. */
interface Entry {
  readonly owner: OpenFiles
  /** Undefined until it has opened the file. */
  opened: Opened | undefined
  isDestroyed: boolean
}

/** The transports of all databases of this process: several databases may have one file open. */
const entries = new Map<Transport, Entry>()

/** The transports of one database. */
export class OpenFiles {
  /** The file of the transport that ended last. */
  private lastOpened: Opened | undefined

  constructor(private readonly filename: string) {}

  /** Tracks a transport until it has ended. */
  add(transport: Transport): Transport {
    const entry: Entry = { owner: this, opened: undefined, isDestroyed: false }
    const tracked: Transport = {
      ...transport,
      destroy: () => {
        entry.isDestroyed = true
        transport.destroy()
      }
    }
    entries.set(tracked, entry)
    const onEnded = () => {
      entries.delete(tracked)
      this.lastOpened = entry.opened ?? this.lastOpened
    }
    void transport.ended.then(onEnded)
    return tracked
  }

  /** Called with the file that a transport has opened, which may have been replaced since. */
  opened(transport: Transport, { file, wal }: OpenedFile): void {
    const entry = entries.get(transport)
    if (file !== undefined && entry !== undefined && !entry.isDestroyed) {
      entry.opened = { filename: this.filename, file, wal }
    }
  }

  destroyAll(): void {
    entries.forEach(({ owner }, transport) => {
      if (owner === this) {
        transport.destroy()
      }
    })
  }

  /**
   * Closes the transports of a file that was replaced, also those of other databases, and returns what to wait for before the
   * new one is opened: until they are closed, the WAL and the shared memory are those of the old one.
   */
  leaveReplaced(): ReadonlyArray<Promise<void>> {
    const file = identityOf(this.filename)
    const wal = walIdentityOf(this.filename)
    const ending: Array<Promise<void>> = []
    for (const [transport, { isDestroyed, opened }] of entries) {
      if (opened === undefined || (opened.filename !== this.filename && opened.file !== this.lastOpened?.file)) {
        continue
      }
      const isReplaced = opened.file !== file
      if (isReplaced && !isDestroyed) {
        transport.destroy()
      }
      if (isReplaced || (isDestroyed && opened.wal !== wal)) {
        ending.push(transport.ended)
      }
    }
    return ending
  }

  /**
   * Sets the WAL of a replaced file aside: SQLite does not delete it if it finds that the file was moved. Returns the
   * name under which it is kept. To be called when the promises of `leaveReplaced` are resolved. If a connection has opened
   * the new file with this WAL already, it finds that its WAL was replaced.
   */
  setAsideWal(): string | undefined {
    const { lastOpened: last } = this
    const file = identityOf(this.filename)
    return last?.wal !== undefined && last.wal !== none && file !== undefined && last.file !== file &&
        last.wal === walIdentityOf(this.filename)
      ? setAsideWal(this.filename)
      : undefined
  }

  /**
   * Why the WAL does not belong to the file. Undefined if it does, as is certain while this process has the file open.
   */
  describeStaleWal(): string | undefined {
    const file = identityOf(this.filename)
    const isOpen = Array.from(entries.values()).some(({ opened }) => opened !== undefined && opened.file === file)
    return file === undefined || isOpen ? undefined : describeStaleWal(this.filename)
  }
}
