-- The audit index. `payload` is json, not jsonb: it must take whatever a valid event says.
CREATE TABLE audit_events (
  topic text NOT NULL,
  partition int NOT NULL,
  record_offset bigint NOT NULL,
  incarnation int NOT NULL,
  event_id text NOT NULL,
  type text NOT NULL,
  at_us bigint NOT NULL,
  actor text NOT NULL,
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
  PRIMARY KEY (topic, partition, record_offset)
);
CREATE INDEX ON audit_events (event_id);
CREATE INDEX ON audit_events (correlation_id);
CREATE INDEX ON audit_events (causation_id);
CREATE INDEX ON audit_events (stream, version);
CREATE INDEX ON audit_events (actor, at_us);
CREATE INDEX ON audit_events (type text_pattern_ops, at_us);
CREATE INDEX ON audit_events (at_us, topic, partition, record_offset);

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
  enabled_at_us bigint NOT NULL
);
