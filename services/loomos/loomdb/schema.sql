-- The audit index. `payload` is json, not jsonb: it must take whatever a valid event says. What
-- conditions are asked of stands in `search`, where Postgres can look into it; `span` and
-- `owner` in it say when and whose, for which the GIN index has no order (ADR 0025).
CREATE TABLE audit_events (
  topic text NOT NULL,
  partition int NOT NULL,
  record_offset bigint NOT NULL,
  incarnation int NOT NULL,
  event_id text NOT NULL,
  type text COLLATE "C" NOT NULL,
  at_us bigint NOT NULL,
  actor text COLLATE "C" NOT NULL,
  stream text NOT NULL,
  version bigint NOT NULL,
  shard text NOT NULL,
  organisation_id text NOT NULL,
  project_id text NOT NULL,
  command_id text NOT NULL,
  command_digest bytea NOT NULL,
  correlation_id text NOT NULL,
  causation_id text NOT NULL,
  payload json NOT NULL,
  search jsonb NOT NULL,
  PRIMARY KEY (topic, partition, record_offset)
);
CREATE INDEX ON audit_events (event_id);
CREATE INDEX ON audit_events (correlation_id);
CREATE INDEX ON audit_events (causation_id);
CREATE INDEX ON audit_events (stream, version);
-- Whom a stream concerns, where an earlier event of it says so: long streams may never say it.
CREATE INDEX ON audit_events (stream, version) WHERE organisation_id <> '';
CREATE INDEX ON audit_events (stream, version) WHERE project_id <> '';
CREATE INDEX ON audit_events (actor, at_us);
CREATE INDEX ON audit_events (type, at_us);
CREATE INDEX ON audit_events (at_us, topic, partition, record_offset);
CREATE INDEX ON audit_events (organisation_id, at_us, topic, partition, record_offset);
CREATE INDEX ON audit_events USING gin (search jsonb_path_ops);

-- What auditors may read in SQL. Which organisation a connection sees is written beside its process
-- id, where their role can neither read nor write it; views are barriers, so no function of theirs
-- meets a row that is not theirs.
CREATE SCHEMA IF NOT EXISTS loomdb_auditor;
CREATE TABLE IF NOT EXISTS loomdb_auditor.readers (
  pid int PRIMARY KEY,
  organisation_id text NOT NULL
);
CREATE VIEW events WITH (security_barrier) AS
  SELECT event_id, type, at_us, to_timestamp(at_us / 1e6) AS at, actor, stream, version,
    organisation_id, project_id, command_id, correlation_id, causation_id, topic, partition,
    record_offset, incarnation, payload, search -> 'tags' AS tags, search ->> 'priority' AS priority,
    search ->> 'classification' AS classification, search -> 'context' AS context,
    search -> 'security' AS security, search -> 'payload' AS data
  FROM audit_events WHERE organisation_id =
    (SELECT r.organisation_id FROM loomdb_auditor.readers r WHERE r.pid = pg_backend_pid())
  UNION ALL
  SELECT event_id, type, at_us, to_timestamp(at_us / 1e6) AS at, actor, stream, version,
    organisation_id, project_id, command_id, correlation_id, causation_id, topic, partition,
    record_offset, incarnation, payload, search -> 'tags' AS tags, search ->> 'priority' AS priority,
    search ->> 'classification' AS classification, search -> 'context' AS context,
    search -> 'security' AS security, search -> 'payload' AS data
  FROM audit_events WHERE 'platform' =
    (SELECT r.organisation_id FROM loomdb_auditor.readers r WHERE r.pid = pg_backend_pid());
CREATE VIEW stories WITH (security_barrier) AS
  SELECT correlation_id, count(*) AS events, min(at) AS began, max(at) AS ended,
    count(DISTINCT actor) AS actors
  FROM events GROUP BY correlation_id;
CREATE VIEW commands WITH (security_barrier) AS
  SELECT command_id, min(actor) AS actor, min(at) AS at, count(*) AS events,
    bool_or(type = 'command.refused') AS refused
  FROM events GROUP BY command_id;
-- Opens a cursor: what is not one statement that gives rows has none. STABLE: what would write is
-- refused in it. A last NULL says that the bytes ran out.
CREATE FUNCTION audit_sql(question text, rows_max int, bytes_max int) RETURNS SETOF text
LANGUAGE plpgsql STABLE AS $audit$
DECLARE
  answer refcursor;
  one record;
  told text;
  used bigint := 0;
  taken int := 0;
BEGIN
  OPEN answer NO SCROLL FOR EXECUTE question;
  WHILE taken < rows_max LOOP
    FETCH answer INTO one;
    EXIT WHEN NOT FOUND;
    told := row_to_json(one)::text;
    used := used + octet_length(told);
    IF used > bytes_max THEN
      RETURN NEXT NULL;
      EXIT;
    END IF;
    RETURN NEXT told;
    taken := taken + 1;
  END LOOP;
  CLOSE answer;
END $audit$;
DO $grants$ BEGIN
  IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'loomos_auditor') THEN
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO loomos_auditor', current_schema());
    GRANT SELECT ON events, stories, commands TO loomos_auditor;
  END IF;
END $grants$;

-- How long events are kept, and what is held.
CREATE TABLE retention_rules (
  organisation_id text PRIMARY KEY,
  rules json NOT NULL
);
CREATE TABLE holds (
  hold_id text PRIMARY KEY,
  organisation_id text NOT NULL,
  placed_at_us bigint NOT NULL,
  hold json NOT NULL
);
CREATE INDEX ON holds (organisation_id, placed_at_us);

-- What is archived, and from where Kafka holds each partition.
CREATE TABLE archived_ranges (
  topic text NOT NULL,
  partition int NOT NULL,
  first_offset bigint NOT NULL,
  range json NOT NULL,
  PRIMARY KEY (topic, partition, first_offset)
);
-- What a policy deleted: the events without what they said, and what allowed it. The log tells the
-- two in either order, so neither table waits for the other.
CREATE TABLE deleted_events (
  topic text NOT NULL,
  partition int NOT NULL,
  record_offset bigint NOT NULL,
  incarnation int NOT NULL,
  event_id text NOT NULL,
  type text COLLATE "C" NOT NULL,
  at_us bigint NOT NULL,
  actor text COLLATE "C" NOT NULL,
  stream text NOT NULL,
  correlation_id text NOT NULL,
  organisation_id text NOT NULL,
  project_id text NOT NULL,
  PRIMARY KEY (topic, partition, record_offset)
);
CREATE INDEX ON deleted_events (event_id);
CREATE INDEX ON deleted_events (organisation_id, at_us);
CREATE INDEX ON deleted_events (type, at_us);
CREATE INDEX ON deleted_events (at_us);
CREATE TABLE policy_deletions (
  topic text NOT NULL,
  partition int NOT NULL,
  record_offset bigint NOT NULL,
  policy text NOT NULL,
  event_id text NOT NULL,
  decided_partition int NOT NULL,
  decided_offset bigint NOT NULL,
  PRIMARY KEY (topic, partition, record_offset)
);
CREATE TABLE log_beginnings (
  topic text NOT NULL,
  partition int NOT NULL,
  first_offset bigint NOT NULL,
  PRIMARY KEY (topic, partition)
);

-- Erasures, and which events hold something sealed for whom.
CREATE TABLE erasures (
  erasure_id text PRIMARY KEY,
  organisation_id text NOT NULL,
  subject text NOT NULL,
  ground int NOT NULL,
  reason text NOT NULL,
  ordered_by text NOT NULL,
  ordered_at_us bigint NOT NULL,
  event_id text NOT NULL,
  place json NOT NULL,
  tombstones json NOT NULL DEFAULT '[]',
  completed_at_us bigint NOT NULL DEFAULT 0,
  completed_event_id text NOT NULL DEFAULT '',
  completed_place json NOT NULL DEFAULT '{}'
);
CREATE INDEX ON erasures (organisation_id, ordered_at_us);
CREATE TABLE sealed_events (
  topic text NOT NULL,
  partition int NOT NULL,
  record_offset bigint NOT NULL,
  organisation_id text NOT NULL,
  subject text NOT NULL,
  at_us bigint NOT NULL,
  PRIMARY KEY (topic, partition, record_offset, subject)
);
CREATE INDEX ON sealed_events (organisation_id, subject, at_us);

-- Subscriptions that remember their consumers, and feeds. How far they are stands in `positions`,
-- which no rebuild touches; `logged_cursor` is what the log last heard of it.
CREATE TABLE subscriptions (
  subscription_id text PRIMARY KEY,
  organisation_id text NOT NULL,
  name text NOT NULL,
  created bytea NOT NULL,
  logged_cursor text NOT NULL
);
CREATE INDEX ON subscriptions (organisation_id, name);
CREATE TABLE dead_deliveries (
  subscription_id text NOT NULL,
  number bigint NOT NULL,
  event_id text NOT NULL,
  type text NOT NULL,
  topic text NOT NULL,
  partition int NOT NULL,
  record_offset bigint NOT NULL,
  incarnation int NOT NULL,
  attempts int NOT NULL,
  reason text NOT NULL,
  replayed boolean NOT NULL DEFAULT false,
  PRIMARY KEY (subscription_id, number)
);
CREATE TABLE feeds (
  organisation_id text PRIMARY KEY,
  classification int NOT NULL,
  begins_at text NOT NULL,
  enabled_at_us bigint NOT NULL,
  upcast boolean NOT NULL
);

-- Alert rules, places, alerts, and who is to be told. How far a rule has read stands in `positions`.
CREATE TABLE alert_rules (
  rule_id text PRIMARY KEY,
  organisation_id text NOT NULL,
  name text NOT NULL,
  spec bytea NOT NULL,
  owner text NOT NULL,
  begins_at text NOT NULL,
  created_at_us bigint NOT NULL,
  created_event_id text NOT NULL,
  version bigint NOT NULL
);
CREATE INDEX ON alert_rules (organisation_id, name);
CREATE TABLE notify_targets (
  target_id text PRIMARY KEY,
  organisation_id text NOT NULL,
  name text NOT NULL,
  plugin text NOT NULL,
  sealed text NOT NULL,
  hint text NOT NULL
);
CREATE INDEX ON notify_targets (organisation_id, name);
CREATE TABLE alerts (
  alert_id text PRIMARY KEY,
  organisation_id text NOT NULL,
  rule_id text NOT NULL,
  grouped text NOT NULL,
  owner text NOT NULL,
  status int NOT NULL,
  raised bytea NOT NULL,
  event_id text NOT NULL,
  cause_id text NOT NULL,
  cause_at_us bigint NOT NULL,
  raised_at_us bigint NOT NULL,
  suppressed bigint NOT NULL DEFAULT 0,
  counted_to_us bigint NOT NULL,
  acknowledged_by text NOT NULL DEFAULT '',
  resolved_by text NOT NULL DEFAULT '',
  reason text NOT NULL DEFAULT ''
);
CREATE INDEX ON alerts (organisation_id, raised_at_us);
CREATE INDEX ON alerts (rule_id, raised_at_us);
CREATE TABLE notifications (
  event_id text NOT NULL,
  target_id text NOT NULL,
  alert_id text NOT NULL,
  organisation_id text NOT NULL,
  kind text NOT NULL,
  at_us bigint NOT NULL,
  position bigint NOT NULL,
  status text NOT NULL DEFAULT 'pending',
  attempts int NOT NULL DEFAULT 0,
  reason text NOT NULL DEFAULT '',
  PRIMARY KEY (event_id, target_id)
);
CREATE INDEX ON notifications (alert_id);
CREATE INDEX ON notifications (target_id, position) WHERE status = 'pending';
