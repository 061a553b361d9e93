import { assert, describe, it } from "@effect/vitest"
import { ConnectLimit, maxStarting, recoveryTime } from "../../../src/internal/cluster/connectLimit.js"
import { type Member, type Server, Servers } from "../../../src/internal/cluster/servers.js"
import { ManualClock } from "./manualClock.js"

const recheck = 5_000

const setup = (addresses: ReadonlyArray<string> = ["10.0.0.1", "10.0.0.2"]) => {
  const clock = new ManualClock()
  const servers = new Servers({ clock, recheck })
  const looks: Array<Server> = []
  servers.probe = (server, onEnd) => {
    looks.push(server)
    onEnd()
  }
  return { clock, servers, looks, found: servers.find("db", 5432, addresses) }
}

const member = (server: Server, fields: Partial<Member> = {}) => {
  const retired: Array<string> = []
  const ended: Array<string> = []
  return {
    retired,
    ended,
    member: {
      server,
      identity: undefined,
      needsWriter: true,
      activity: 0,
      isWaiting: false,
      retire: (reason: string) => void retired.push(reason),
      end: (reason: string) => void ended.push(reason),
      ...fields
    }
  }
}

describe("servers", () => {
  it("one that is down is looked at again, one that has answered lately is not", () => {
    const { clock, found: [a, b], looks, servers } = setup()
    servers.answered(b)
    servers.failed(a, "down", "connection refused")
    servers.used()
    assert.deepInclude(a, { state: "down", since: 0, reason: "connection refused" })
    clock.advance(recheck - 1)
    assert.deepStrictEqual(looks, [])
    servers.answered(b)
    servers.used()
    clock.advance(1)
    assert.deepStrictEqual(looks, [a])
    servers.answered(a)
    assert.deepInclude(a, { state: "up", since: recheck, reason: undefined })
  })

  it("none is looked at while the database is not used, and no timer is left behind", () => {
    const { clock, found: [a], looks, servers } = setup()
    servers.failed(a, "silent", "no answer")
    clock.advance(10 * recheck)
    assert.deepStrictEqual(looks, [])
    assert.strictEqual(clock.timers, 0)
    // A connection that is open keeps the timer, and what its server says is use.
    let activity = 0
    let isWaiting = false
    const open = {
      ...member(a).member,
      get activity() {
        return activity
      },
      get isWaiting() {
        return isWaiting
      }
    }
    servers.join(open)
    servers.used()
    clock.advance(recheck)
    const { length } = looks
    assert.isAbove(length, 0)
    clock.advance(10 * recheck)
    assert.strictEqual(looks.length, length)
    activity++
    clock.advance(recheck)
    assert.isAbove(looks.length, length)
    // So is a statement that waits for its answer.
    const answered = looks.length
    isWaiting = true
    clock.advance(recheck)
    assert.isAbove(looks.length, answered)
    isWaiting = false
    servers.leave(open)
    clock.advance(2 * recheck)
    assert.strictEqual(clock.timers, 0)
  })

  it("one alone is never looked at, and the addresses of localhost are one", () => {
    for (const addresses of [["10.0.0.1"], ["::1", "127.0.0.1"]]) {
      const { clock, found: [first], looks, servers } = setup(addresses)
      assert.isFalse(servers.isCluster)
      servers.failed(first, "down", "connection refused")
      servers.used()
      servers.lost(first)
      clock.advance(10 * recheck)
      assert.deepStrictEqual(looks, [])
      assert.strictEqual(clock.timers, 0)
    }
  })

  it("one that did not answer in time is looked at once, at once", () => {
    const { found: [a], looks, servers } = setup()
    servers.markSilent(a, "no answer")
    servers.markSilent(a, "no answer")
    assert.strictEqual(a.state, "silent")
    assert.deepStrictEqual(looks, [a])
  })

  it("while one does not answer, the others are looked at", () => {
    const { found: [a, b, c], looks, servers } = setup(["10.0.0.1", "10.0.0.2", "10.0.0.3"])
    servers.checkOthers(a)
    assert.deepStrictEqual(looks, [b, c])
  })

  it("addresses that a name does not have any more are forgotten, and the state of the others stays", () => {
    const { found: [a, b], servers } = setup()
    servers.failed(a, "down", "connection refused")
    const [other, same] = servers.find("db", 5432, ["10.0.0.3", "10.0.0.1"])
    assert.strictEqual(same, a)
    assert.strictEqual(other.state, "unknown")
    assert.sameMembers(Array.from(servers.list()), [a, other])
    assert.notInclude(servers.list(), b)
  })

  it("a lower timeline is refused, its connections end, and other systems and standbys are not concerned", () => {
    const { found: [a, b], servers } = setup()
    const first = { systemIdentifier: "7", timeline: 1 }
    assert.isTrue(servers.setIdentity(a, first, "writer"))
    const zombie = member(a, { identity: first })
    const standby = member(b)
    const foreign = member(b, { identity: { systemIdentifier: "8", timeline: 1 } })
    ;[zombie, standby, foreign].forEach((each) => servers.join(each.member))
    assert.isTrue(servers.setIdentity(b, { systemIdentifier: "7", timeline: 2 }, "writer"))
    assert.strictEqual(zombie.ended.length, 1)
    assert.match(zombie.ended[0], /timeline 1, but timeline 2/)
    assert.deepStrictEqual([...standby.ended, ...foreign.ended], [])
    assert.isFalse(servers.setIdentity(a, first, "writer"))
    assert.isTrue(servers.setIdentity(a, first, "standby"))
    assert.isTrue(servers.setIdentity(b, { systemIdentifier: "7", timeline: 2 }, "writer"))
    assert.isTrue(servers.setIdentity(a, { systemIdentifier: "8", timeline: 1 }, "writer"))
  })

  it("a demotion takes the connections of that server out of use that need a writer", () => {
    const { found: [a, b], servers } = setup()
    const [writer, reader, elsewhere] = [member(a), member(a, { needsWriter: false }), member(b)]
    ;[writer, reader, elsewhere].forEach((each) => servers.join(each.member))
    servers.demoted(a)
    assert.strictEqual(writer.retired.length, 1)
    assert.deepStrictEqual([...reader.retired, ...elsewhere.retired], [])
    assert.deepInclude(a, { role: "standby", isReadOnly: true })
  })

  it("connections that prefer standbys leave the primary one after the other, as a standby accepts them", () => {
    const { clock, found: [primary, standby], servers } = setup()
    const prefers = (server: Server) => server === standby
    servers.answered(primary)
    servers.setRole(primary, "writer", false)
    servers.failed(standby, "down", "connection refused")
    const fallen = Array.from({ length: 4 }, () => member(primary, { prefers, needsWriter: false }))
    const elsewhere = member(primary, { prefers: () => false, needsWriter: false })
    const writing = member(primary)
    const all = [elsewhere, writing, ...fallen]
    all.forEach((each) => servers.join(each.member))
    servers.used()
    const retired = () => all.map((each) => each.retired.length)
    clock.advance(2 * recheck)
    assert.deepStrictEqual(retired(), [0, 0, 0, 0, 0, 0])
    servers.answered(standby)
    servers.setRole(standby, "standby", true)
    servers.used()
    clock.advance(recheck)
    assert.deepStrictEqual(retired(), [0, 0, 1, 0, 0, 0])
    // Each one that the standby accepts is followed by the next.
    servers.join(member(standby).member)
    servers.join(member(standby).member)
    assert.deepStrictEqual(retired(), [0, 0, 1, 1, 1, 0])
    // A standby that accepts none costs one connection at each check.
    clock.advance(recheck)
    clock.advance(10 * recheck)
    assert.deepStrictEqual(retired(), [0, 0, 1, 1, 1, 1])
  })

  it("the lag of a standby that does not answer grows, and is 0 once it is none", () => {
    const { clock, found: [a, b], servers } = setup()
    const lags: Array<readonly [string, number]> = []
    servers.observer = {
      failover: () => undefined,
      lag: ({ address }, millis) => lags.push([address, millis]),
      connected: () => () => undefined
    }
    const last = () => lags.splice(0).at(-1)
    servers.answered(a)
    servers.setRole(a, "standby", true)
    servers.setLag(a, 20)
    assert.deepStrictEqual(last(), [a.address, 20])
    servers.join(member(a).member)
    servers.used()
    // While it answers, what was measured last is right.
    clock.advance(recheck)
    assert.strictEqual(last(), undefined)
    servers.failed(a, "silent", "no answer")
    clock.advance(recheck)
    assert.deepStrictEqual(last(), [a.address, 20 + 2 * recheck])
    clock.advance(recheck)
    assert.deepStrictEqual(last(), [a.address, 20 + 3 * recheck])
    // Of the addresses of one name, the one that is farthest behind counts.
    servers.setLag(b, 1)
    assert.deepStrictEqual(last(), [b.address, 20 + 3 * recheck])
    servers.setLag(a, 30)
    assert.deepStrictEqual(last(), [a.address, 30])
    servers.setRole(a, "writer", false)
    assert.deepStrictEqual(last(), [a.address, 1])
    servers.setRole(a, "writer", false)
    assert.strictEqual(last(), undefined)
    servers.find("db", 5432, [a.address])
    assert.deepStrictEqual(last(), [b.address, 0])
    servers.setLag(a, 5)
    servers.close()
    assert.deepStrictEqual(last(), [a.address, 0])
  })

  it("a failover lasts from the loss of the writer until there is one again", () => {
    const { clock, found: [a, b], servers } = setup()
    const times: Array<number> = []
    servers.observer = {
      failover: (millis) => times.push(millis),
      lag: () => undefined,
      connected: () => () => undefined
    }
    servers.setRole(a, "writer", false)
    servers.setRole(b, "standby", false)
    clock.advance(100)
    servers.failed(a, "down", "connection refused")
    clock.advance(300)
    servers.failed(a, "down", "connection refused")
    servers.setRole(b, "standby", false)
    clock.advance(200)
    servers.setRole(b, "writer", false)
    servers.setRole(b, "writer", false)
    assert.deepStrictEqual(times, [500])
  })
})

describe("connect limit", () => {
  it("a few connections to a server are opened at a time, until it has been up for some time", () => {
    const { clock, found: [a, b], servers } = setup()
    const limit = new ConnectLimit(clock)
    const granted: Array<number> = []
    const take = (server: Server, i: number) => limit.take(server, () => granted.push(i))
    const ends = Array.from({ length: 10 }, (_, i) => take(a, i))
    assert.strictEqual(granted.length, maxStarting)
    // Another server has a limit of its own.
    take(b, 100)
    assert.include(granted, 100)
    // One that waits no longer is left out, and ending twice frees one place.
    ends[maxStarting].end()
    ends[maxStarting].end()
    ends[0].end()
    ends[0].end()
    assert.deepStrictEqual(granted, [0, 1, 2, 3, 100, maxStarting + 1])
    servers.answered(a)
    clock.advance(recoveryTime + 1)
    const before = granted.length
    Array.from({ length: 10 }, (_, i) => take(a, 200 + i))
    assert.strictEqual(granted.length, before + 10)
  })

  it("a standby counts as recovering, and after its promotion for as long as one that came back", () => {
    const { clock, found: [a], servers } = setup()
    const limit = new ConnectLimit(clock)
    let granted = 0
    const take = () => {
      granted = 0
      const ends = Array.from({ length: 10 }, () => limit.take(a, () => granted++))
      const first = granted
      ends.forEach(({ end }) => end())
      return first
    }
    servers.answered(a)
    servers.setRole(a, "standby", true)
    clock.advance(recoveryTime + 1)
    assert.strictEqual(take(), maxStarting)
    servers.setRole(a, "writer", false)
    assert.strictEqual(take(), maxStarting)
    clock.advance(recoveryTime + 1)
    assert.strictEqual(take(), 10)
  })

  it("attempts at a slow server count for as long as it answers others", () => {
    const { clock, found: [a], servers } = setup()
    const limit = new ConnectLimit(clock)
    let granted = 0
    Array.from({ length: 3 * maxStarting }, () => limit.take(a, () => granted++))
    for (let i = 0; i < 5; i++) {
      clock.advance(900)
      servers.answered(a)
    }
    assert.strictEqual(granted, maxStarting)
    clock.advance(1_000)
    assert.strictEqual(granted, 2 * maxStarting)
  })

  it("attempts that wait for a silent server do not hold up others for longer than a second", () => {
    const { clock, found: [a] } = setup()
    const limit = new ConnectLimit(clock)
    let granted = 0
    Array.from({ length: 3 * maxStarting }, () => limit.take(a, () => granted++))
    assert.strictEqual(granted, maxStarting)
    clock.advance(1_000)
    assert.strictEqual(granted, 2 * maxStarting)
    clock.advance(2_000)
    assert.strictEqual(granted, 3 * maxStarting)
    assert.strictEqual(clock.timers, 0)
  })

  it("a busy event loop is no silence of the server", () => {
    let time = 0
    const due = new Map<() => void, number>()
    const limit = new ConnectLimit({
      now: () => time,
      schedule: (f, delay) => {
        const entry = (): void => f()
        due.set(entry, time + delay)
        return { cancel: () => void due.delete(entry), keepAlive: () => undefined }
      }
    })
    const { found: [a] } = setup()
    let granted = 0
    const attempts = Array.from({ length: 2 * maxStarting }, () => limit.take(a, () => granted++))
    /** One turn of a loop that was busy for this long: its timers, and then what has arrived. */
    const turn = (millis: number) => {
      time += millis
      for (const [entry, at] of Array.from(due)) {
        if (at <= time) {
          due.delete(entry)
          entry()
        }
      }
    }
    turn(5_000)
    attempts.slice(0, maxStarting).forEach(({ accepted }) => accepted())
    Array.from({ length: 12 }, () => turn(100))
    assert.strictEqual(granted, maxStarting)
    attempts.forEach(({ end }) => end())
    assert.strictEqual(due.size, 0)
  })

  it("attempts whose connection was accepted count until they end, or for ten seconds", () => {
    const { clock, found: [a] } = setup()
    const limit = new ConnectLimit(clock)
    let granted = 0
    const attempts = Array.from({ length: 3 * maxStarting }, () => limit.take(a, () => granted++))
    attempts.slice(0, maxStarting).forEach(({ accepted }) => accepted())
    clock.advance(9_999)
    assert.strictEqual(granted, maxStarting)
    attempts[0].end()
    assert.strictEqual(granted, maxStarting + 1)
    clock.advance(1)
    assert.strictEqual(granted, 2 * maxStarting)
  })
})
