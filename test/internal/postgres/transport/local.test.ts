import { assert, it } from "@effect/vitest"
import { isLocal } from "../../../../src/internal/postgres/transport/local.js"

it.each(["/var/run/postgresql", "127.0.0.1", "127.8.4.2", "::1", "::ffff:127.0.0.1", "::FFFF:127.0.0.1"])(
  "%s stays within this machine",
  (host) => assert.isTrue(isLocal(host))
)

it.each([
  "10.0.0.1",
  "1127.0.0.1",
  "127.0.0.1.example.com",
  "0.0.0.0",
  "::",
  "::11",
  "fe80::1",
  "::ffff:10.127.0.1",
  "db"
])(
  "%s does not",
  (host) => assert.isFalse(isLocal(host))
)
