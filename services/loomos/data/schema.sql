-- Read models of data. Times are in microseconds since 1970.
-- Where each event stands, by the user's own id: for repeated ids, causes and receipts. What an
-- event says is in the log, and in loomdb's tables.
CREATE TABLE event_ids (
  organisation_id text NOT NULL,
  event_id text NOT NULL,
  digest bytea NOT NULL,
  stream text NOT NULL,
  version bigint NOT NULL,
  topic text NOT NULL,
  partition int NOT NULL,
  record_offset bigint NOT NULL,
  incarnation int NOT NULL,
  appended_at_us bigint NOT NULL,
  PRIMARY KEY (organisation_id, event_id));
CREATE INDEX event_ids_by_time ON event_ids (organisation_id, appended_at_us);

CREATE TABLE batches (
  batch_id text PRIMARY KEY,
  organisation_id text NOT NULL,
  events int NOT NULL,
  done int NOT NULL,
  events_processed int NOT NULL,
  duplicates int NOT NULL,
  refused jsonb NOT NULL,
  accepted_at_us bigint NOT NULL,
  finished_at_us bigint NOT NULL);

CREATE TABLE schemas (
  organisation_id text NOT NULL,
  event_type text NOT NULL,
  version text NOT NULL,
  schema_json text NOT NULL,
  digest bytea NOT NULL,
  compatibility int NOT NULL,
  upcast bytea NOT NULL,
  registered_at_us bigint NOT NULL,
  event_id text NOT NULL,
  PRIMARY KEY (organisation_id, event_type, version));

CREATE TABLE deprecations (
  organisation_id text NOT NULL,
  event_type text NOT NULL,
  version text NOT NULL,
  PRIMARY KEY (organisation_id, event_type, version));
