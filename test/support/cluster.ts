/**
 * Several PostgreSQL servers on loopback: a primary with standbys by streaming replication, and what happens to such a
 * cluster: crashes, silence, promotion, switchover, lag, rejoining.
 */
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { baseBackup, coldCopy } from "./baseBackup.js"
import { query } from "./client.js"
import { eventually } from "./eventually.js"
import type { Installation } from "./installation.js"
import { fromProcess, type Server } from "./server.js"
import { type MakeData, makeServerProcess, type ServerOptions, type ServerProcess } from "./serverProcess.js"

/** How a cluster differs from a primary with two asynchronous standbys. */
export interface ClusterOptions extends Pick<ServerOptions, "config" | "maxConnections"> {
  /** Default: 2. */
  readonly standbys?: number | undefined
  /**
   * Whether commits wait for one standby, the first of `standbys()`. A server that was promoted waits for none until one
   * follows it. Default: false.
   */
  readonly synchronous?: boolean | undefined
}

/** One server of a cluster. It keeps its port. */
export interface Member extends Server {
  /** `server1`, `server2`, ...: also its `application_name` at the primary, and the name of its replication slot there. */
  readonly name: string
}

export interface Cluster {
  /** All servers, in the order of their names, whatever has happened to them. The first one begins as the primary. */
  readonly members: ReadonlyArray<Member>
  /** The server that was promoted last. */
  readonly primary: () => Member
  /** The servers that run as standbys. */
  readonly standbys: () => ReadonlyArray<Member>
  /** Names all servers in the order of `members`, as superuser. */
  readonly url: string
  /** The same with another database. */
  readonly urlOf: (database: string) => string
  /** Creates a database, and completes when all standbys have it. */
  readonly createDatabase: (name: string) => Effect.Effect<void>
  /**
   * Promotes a standby (default: the one that has received most), and completes when it accepts writes. The other standbys
   * follow nobody until `follow` or `restore`. The old primary is not touched: kill, pause or stop it before.
   */
  readonly promote: (standby?: Member) => Effect.Effect<void>
  /** When the last promotion completed, by `performance.now()`. */
  readonly promotedAt: () => number
  /** Lets a standby follow the present primary, and completes when it does. It must not have received more than that one. */
  readonly follow: (standby: Member) => Effect.Effect<void>
  /** Kills a server if it runs, replaces its data by a base backup of the primary, and starts it as a standby. */
  readonly rejoin: (member: Member) => Effect.Effect<void>
  /** Makes the cluster whole again after a promotion: running standbys follow the primary, all other servers rejoin. */
  readonly restore: Effect.Effect<void>
  /**
   * A planned switchover: the primary is shut down in `fast` mode, the standby (default: the first), which has everything by
   * then, is promoted, and the other standbys and the former primary follow it.
   */
  readonly switchover: (standby?: Member) => Effect.Effect<void>
  /** Waits until a standby has replayed an LSN (default: the primary's present one). */
  readonly replayed: (standby: Member, lsn?: string) => Effect.Effect<void>
  /** From now on commits are replayed on a standby this many milliseconds after they happened; 0 ends it. */
  readonly lag: (standby: Member, millis: number) => Effect.Effect<void>
  /** Stops the replay on a standby, which still receives. */
  readonly pauseReplay: (standby: Member) => Effect.Effect<void>
  readonly resumeReplay: (standby: Member) => Effect.Effect<void>
  /** Copies the data of a member that is stopped, and starts the copy as a standby of nobody, for `promoteServer`. */
  readonly coldCopy: (member: Member) => Effect.Effect<Server, never, Scope.Scope>
}

// Standbys connect again at once, and nothing waits for the disk.
const settings: Readonly<Record<string, string>> = {
  fsync: "off",
  shared_buffers: "16MB",
  wal_keep_size: "96MB",
  wal_retrieve_retry_interval: "100ms",
  wal_receiver_status_interval: "1s"
}

/** Waits until a query's only column is true. */
const holds = (server: Server, condition: string, params: ReadonlyArray<unknown> = []): Effect.Effect<void> =>
  eventually(Effect.map(query(server.url, `SELECT ${condition} AS holds`, params), ([{ holds }]) => holds === true), {
    timeout: "1 minute"
  })

/** Promotes a standby, and completes when it accepts writes. */
export const promoteServer = (standby: Server): Effect.Effect<void> =>
  Effect.zipRight(
    query(standby.url, "SELECT pg_promote(wait_seconds => 60)"),
    holds(standby, "NOT pg_is_in_recovery()")
  )

/** The position up to which a primary has written its WAL. */
export const currentLsn = (server: Server): Effect.Effect<string> =>
  Effect.map(query(server.url, "SELECT pg_current_wal_lsn()::text AS lsn"), ([{ lsn }]) => lsn)

/** A copy of a server that starts as a standby. */
const standbyData = (makeData: MakeData): MakeData => async (directory) => {
  await makeData(directory)
  Fs.writeFileSync(Path.join(directory, "standby.signal"), "")
}

/** A process that ends when the scope closes. */
const serverProcess = (
  installation: Installation,
  options: ServerOptions
): Effect.Effect<ServerProcess, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.promise(() => makeServerProcess(installation, options)),
    ({ dispose }) => Effect.promise(dispose)
  )

/** Starts a cluster, in one or two seconds. It ends when the scope closes. */
export const makeCluster = (
  installation: Installation,
  options: ClusterOptions = {}
): Effect.Effect<Cluster, never, Scope.Scope> =>
  Effect.gen(function*() {
    const config = { ...settings, ...options.config }
    const processes = new Map<Member, ServerProcess>()
    const following = new Set<Member>()
    let promotedAt = performance.now()

    const add = (process: ServerProcess): Member => {
      const member: Member = Object.defineProperties(
        { name: `server${processes.size + 1}` },
        Object.getOwnPropertyDescriptors(fromProcess(process))
      ) as Member
      processes.set(member, process)
      return member
    }
    const processOf = (member: Member): ServerProcess => processes.get(member)!

    /** Where a standby gets its WAL from. */
    const source = (name: string, from: Member): Readonly<Record<string, string>> => {
      const { password, port, username } = new URL(from.url)
      return {
        primary_conninfo: `host=127.0.0.1 port=${port} user=${username} password=${password} application_name=${name}`,
        primary_slot_name: name
      }
    }

    const makeSlot = (at: Member, name: string) =>
      query(
        at.url,
        `SELECT pg_create_physical_replication_slot($1, true)
          WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = $1)`,
        [name]
      )

    let primary = add(yield* serverProcess(installation, { ...options, config }))

    const isFollowed = (standby: Member) =>
      holds(primary, "EXISTS (SELECT FROM pg_stat_replication WHERE application_name = $1 AND state = 'streaming')", [
        standby.name
      ])

    const standbys = () => [...processes.keys()].filter((member) => following.has(member))

    /** Lets commits wait for the first standby. */
    const synchronize = Effect.suspend(() => {
      const [first] = standbys()
      if (options.synchronous !== true || first === undefined) {
        return Effect.void
      }
      return Effect.zipRight(
        primary.configure({ synchronous_standby_names: first.name }),
        holds(primary, "EXISTS (SELECT FROM pg_stat_replication WHERE application_name = $1 AND sync_state = 'sync')", [
          first.name
        ])
      )
    })

    const first = primary
    const addStandby = (name: string) =>
      Effect.gen(function*() {
        yield* makeSlot(first, name)
        return yield* serverProcess(installation, {
          ...options,
          config: { ...config, ...source(name, first) },
          makeData: standbyData(baseBackup(processOf(first)))
        })
      })
    const names = Array.from({ length: options.standbys ?? 2 }, (_, index) => `server${index + 2}`)
    for (const started of yield* Effect.forEach(names, addStandby, { concurrency: "unbounded" })) {
      following.add(add(started))
    }
    yield* Effect.forEach(following, isFollowed, { discard: true })
    yield* synchronize

    const members = [...processes.keys()]

    const promote: Cluster["promote"] = (standby) =>
      Effect.gen(function*() {
        const next = standby ?? (yield* mostAdvanced(standbys()))
        yield* next.configure({ synchronous_standby_names: "" })
        yield* promoteServer(next)
        promotedAt = performance.now()
        following.delete(next)
        primary = next
      })

    /** Completes when the standby, which is running, follows the primary. */
    const attach = (standby: Member) =>
      Effect.gen(function*() {
        following.add(standby)
        yield* isFollowed(standby)
        yield* synchronize
      })

    const follow: Cluster["follow"] = (standby) =>
      Effect.gen(function*() {
        yield* makeSlot(primary, standby.name)
        yield* standby.configure(source(standby.name, primary))
        yield* attach(standby)
      })

    const rejoin: Cluster["rejoin"] = (member) =>
      Effect.gen(function*() {
        yield* member.kill
        following.delete(member)
        yield* makeSlot(primary, member.name)
        const process = processOf(member)
        yield* Effect.promise(() => process.replaceData(standbyData(baseBackup(processOf(primary)))))
        yield* member.configure({ ...source(member.name, primary), synchronous_standby_names: "" })
        yield* member.start
        yield* attach(member)
      })

    const restore = Effect.suspend(() => {
      const others = members.filter((member) => member !== primary && !following.has(member))
      return Effect.zipRight(
        Effect.forEach(standbys(), follow, { discard: true }),
        Effect.forEach(others, rejoin, { discard: true })
      )
    })

    const switchover: Cluster["switchover"] = (standby) =>
      Effect.gen(function*() {
        const former = primary
        const [next, ...others] = standby === undefined
          ? standbys()
          : [standby, ...standbys().filter((other) => other !== standby)]
        yield* former.stop("fast")
        yield* promote(next)
        yield* Effect.forEach(others, follow, { discard: true })
        yield* makeSlot(next, former.name)
        processOf(former).put("standby.signal", "")
        yield* former.configure({ ...source(former.name, next), synchronous_standby_names: "" })
        yield* former.start
        yield* attach(former)
      })

    const replayed: Cluster["replayed"] = (standby, lsn) =>
      Effect.flatMap(
        lsn === undefined ? currentLsn(primary) : Effect.succeed(lsn),
        (lsn) => holds(standby, "pg_last_wal_replay_lsn() >= $1::pg_lsn", [lsn])
      )

    const urlOf = (database: string) => {
      const { password, username } = installation
      const hosts = members.map(({ port }) => `127.0.0.1:${port}`).join(",")
      return `postgres://${username}:${password}@${hosts}/${encodeURIComponent(database)}`
    }

    return {
      members,
      primary: () => primary,
      standbys,
      url: urlOf("postgres"),
      urlOf,
      createDatabase: (name) =>
        Effect.zipRight(
          query(primary.url, `CREATE DATABASE ${name}`),
          Effect.suspend(() => Effect.forEach(standbys(), (standby) => replayed(standby), { discard: true }))
        ),
      promote,
      promotedAt: () => promotedAt,
      follow,
      rejoin,
      restore,
      switchover,
      replayed,
      lag: (standby, millis) =>
        Effect.zipRight(
          standby.configure({ recovery_min_apply_delay: `${millis}ms` }),
          holds(standby, "(SELECT setting = $1 FROM pg_settings WHERE name = 'recovery_min_apply_delay')", [
            String(millis)
          ])
        ),
      pauseReplay: (standby) =>
        Effect.zipRight(
          query(standby.url, "SELECT pg_wal_replay_pause()"),
          holds(standby, "pg_get_wal_replay_pause_state() = 'paused'")
        ),
      resumeReplay: (standby) => Effect.asVoid(query(standby.url, "SELECT pg_wal_replay_resume()")),
      coldCopy: (member) =>
        Effect.map(
          serverProcess(installation, { ...options, config, makeData: standbyData(coldCopy(processOf(member))) }),
          fromProcess
        )
    }
  })

/** The standby that has received most of the WAL. */
const mostAdvanced = (standbys: ReadonlyArray<Member>): Effect.Effect<Member> =>
  Effect.map(
    Effect.forEach(standbys, (standby) =>
      Effect.map(
        query(standby.url, "SELECT (pg_last_wal_receive_lsn() - '0/0')::float8 AS received"),
        ([{ received }]) => ({ standby, received })
      )),
    (candidates) => {
      if (candidates.length === 0) {
        throw new Error("The cluster has no standby")
      }
      return candidates.reduce((best, next) => next.received > best.received ? next : best).standby
    }
  )
