/**
 * The settings that statements outside of transactions have changed, which hold for every connection of a file.
 */
import type { ChangedSetting } from "./protocol.js"

const nothing: ReadonlyArray<ChangedSetting> = []

export class SharedSettings {
  private readonly versions = new Map<string, readonly [version: number, setting: ChangedSetting]>()
  private lastVersion = 0

  /** The version of the last change. */
  get version(): number {
    return this.lastVersion
  }

  /** Records a change, which replaces an earlier one of the same setting. */
  record(setting: ChangedSetting): void {
    this.versions.delete(setting.key)
    this.versions.set(setting.key, [++this.lastVersion, setting])
  }

  /** The changes after a version, the latest last. */
  after(version: number): ReadonlyArray<ChangedSetting> {
    return version === this.lastVersion
      ? nothing
      : Array.from(this.versions.values()).filter(([changed]) => changed > version).map(([, setting]) => setting)
  }
}
