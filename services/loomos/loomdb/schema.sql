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
