/**
 * The settings that a server reports (GUC_REPORT): at start-up, and whenever one of them changes.
 */

/** A server may report any number of settings. No more than this many are kept; PostgreSQL 18 reports 16. */
const maxParameters = 100

/** They change when the server is promoted or reloads its configuration, and are never state of a borrower. */
const serverParameters: ReadonlySet<string> = new Set(["in_hot_standby", "default_transaction_read_only"])

const utf8 = /^(?:utf-?8|unicode)$/i

export class ReportedParameters {
  private readonly values = new Map<string, string>()
  /** The values that the connection has without a borrower. */
  private readonly own = new Map<string, string>()
  /** The settings that a borrower has changed. */
  private readonly changed = new Set<string>()
  /** The value of client_encoding, if that is not UTF-8. */
  foreignEncoding: string | undefined = undefined
  /** Called when one of `serverParameters` has changed. */
  onServerChange: (name: string) => void = () => undefined

  /** The value of a setting; undefined if the server does not report it. */
  get(name: string): string | undefined {
    return this.values.get(name)
  }

  /** Whether a setting differs from its value without a borrower. */
  get isChanged(): boolean {
    return this.changed.size > 0
  }

  /**
   * Notes a reported setting. `byUser`: a statement of a user was running. Returns whether the change may be state of
   * the borrower.
   */
  report(name: string, value: string, byUser: boolean): boolean {
    const isNew = this.values.get(name) !== value
    if (this.values.has(name) || this.values.size < maxParameters) {
      this.values.set(name, value)
    }
    if (name === "client_encoding") {
      this.foreignEncoding = utf8.test(value) ? undefined : value
    }
    if (serverParameters.has(name)) {
      if (isNew) {
        this.onServerChange(name)
      }
      return false
    }
    if (this.own.get(name) === value) {
      this.changed.delete(name)
      return false
    }
    if (byUser) {
      // Beyond the limit it does not matter which settings have changed.
      if (this.changed.size < maxParameters) {
        this.changed.add(name)
      }
      return true
    }
    if (!this.changed.has(name) && (this.own.has(name) || this.own.size < maxParameters)) {
      this.own.set(name, value)
    }
    return false
  }

  /** Notes that the borrower's settings were reset. Those that still differ were changed by the server. */
  cleaned(): void {
    for (const name of this.changed) {
      this.own.set(name, this.values.get(name) ?? "")
    }
    this.changed.clear()
  }
}
