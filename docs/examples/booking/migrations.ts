/**
 * The migrations of the booking service's tables. An applied migration is never edited: a new one changes its tables.
 */
import { Migrations } from "sqlayer"

/** SQLite accepts the name of any type, and keeps a timestamptz as text in ISO 8601. */
const tables = `
  CREATE TABLE tenant (
    id text PRIMARY KEY,
    name text NOT NULL UNIQUE,
    token_hash text NOT NULL UNIQUE
  );

  -- The credit of a tenant, in cents: what it has bought and not spent.
  CREATE TABLE account (
    tenant text PRIMARY KEY REFERENCES tenant (id),
    balance bigint NOT NULL CHECK (balance >= 0)
  );

  -- Each change of a balance. Entries are only added; their sum is the balance.
  CREATE TABLE entry (
    id text PRIMARY KEY,
    tenant text NOT NULL REFERENCES account (tenant),
    amount bigint NOT NULL,
    reason text NOT NULL
  );

  CREATE TABLE room (
    id text PRIMARY KEY,
    tenant text NOT NULL REFERENCES tenant (id),
    name text NOT NULL,
    cents_per_hour integer NOT NULL CHECK (cents_per_hour >= 0),
    UNIQUE (tenant, name),
    UNIQUE (tenant, id)
  );

  -- The foreign key has the tenant, so that a booking can only be of a room of its own tenant.
  CREATE TABLE booking (
    id text PRIMARY KEY,
    tenant text NOT NULL,
    room text NOT NULL,
    starts timestamptz NOT NULL,
    ends timestamptz NOT NULL,
    cents integer NOT NULL,
    CHECK (starts < ends),
    FOREIGN KEY (tenant, room) REFERENCES room (tenant, id)
  );

  CREATE INDEX booking_pages ON booking (tenant, starts, id);

  -- The answers to requests with an Idempotency-Key.
  CREATE TABLE request (
    tenant text NOT NULL REFERENCES tenant (id),
    key text NOT NULL,
    fingerprint text NOT NULL,
    answer text,
    PRIMARY KEY (tenant, key)
  );

  -- Events that are to be delivered. A worker that delivers one has it until claimed_until.
  CREATE TABLE outbox (
    id text PRIMARY KEY,
    tenant text NOT NULL REFERENCES tenant (id),
    event text NOT NULL,
    created timestamptz NOT NULL,
    claimed_until timestamptz NOT NULL
  );

  CREATE INDEX outbox_claims ON outbox (claimed_until);

  -- What the consumer of the events has: which events it has handled, and what it has made of them.
  CREATE TABLE handled (
    event text PRIMARY KEY
  );

  CREATE TABLE usage (
    tenant text NOT NULL,
    day text NOT NULL,
    bookings integer NOT NULL,
    minutes integer NOT NULL,
    PRIMARY KEY (tenant, day)
  );
`

/** The index of the constraint needs `btree_gist` for the equality of texts. */
const noOverlapOnPostgres = `
  CREATE EXTENSION IF NOT EXISTS btree_gist;

  ALTER TABLE booking ADD CONSTRAINT booking_no_overlap EXCLUDE USING gist (
    room WITH =,
    tstzrange(starts, ends) WITH &&
  );
`

/** Sessions that write run one after the other, so that no other booking comes between the check and the insert. */
const noOverlapOnSqlite = `
  CREATE INDEX booking_room ON booking (room, starts);

  CREATE TRIGGER booking_no_overlap BEFORE INSERT ON booking
  WHEN EXISTS (SELECT 1 FROM booking WHERE room = NEW.room AND starts < NEW.ends AND ends > NEW.starts)
  BEGIN
    SELECT RAISE(ABORT, 'booking_no_overlap');
  END;
`

/**
 * Requests run as a role to which policies apply. The user of DATABASE_URL owns the tables: it migrates, finds out who
 * a request is from, and runs the worker. A role belongs to the whole server, so it may exist already: created for
 * another database, or by an administrator, who has granted it to the user.
 */
const rowLevelSecurity = `
  DO $$
  BEGIN
    CREATE ROLE booking_tenant NOLOGIN;
    GRANT booking_tenant TO current_user;
  EXCEPTION
    WHEN duplicate_object OR unique_violation OR insufficient_privilege THEN NULL;
  END
  $$;

  GRANT SELECT, UPDATE ON account TO booking_tenant;
  GRANT SELECT, INSERT ON entry TO booking_tenant;
  GRANT SELECT, INSERT ON room TO booking_tenant;
  GRANT SELECT, INSERT, DELETE ON booking TO booking_tenant;
  GRANT SELECT, INSERT, UPDATE ON request TO booking_tenant;
  GRANT INSERT ON outbox TO booking_tenant;
  GRANT SELECT ON usage TO booking_tenant;

  DO $$
  DECLARE
    name text;
  BEGIN
    FOREACH name IN ARRAY ARRAY['account', 'entry', 'room', 'booking', 'request', 'outbox', 'usage'] LOOP
      EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
      EXECUTE format(
        'CREATE POLICY tenants ON %I TO booking_tenant USING (tenant = current_setting(''booking.tenant''))', name
      );
    END LOOP;
  END
  $$;
`

export const loader = Migrations.fromRecord({
  "0001_tables": tables,
  "0002_no_overlap_on_postgres": { dialect: "postgres", up: noOverlapOnPostgres },
  "0003_no_overlap_on_sqlite": { dialect: "sqlite", up: noOverlapOnSqlite },
  "0004_row_level_security": { dialect: "postgres", up: rowLevelSecurity },
  "0005_commit_records": Migrations.commitRecords
})
