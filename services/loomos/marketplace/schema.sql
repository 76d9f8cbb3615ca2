-- Read models of the marketplace. Money is in micro-dollars, times in microseconds since 1970.
CREATE TABLE prices (
  organisation_id text NOT NULL,
  sku text NOT NULL,
  micro_dollars_per_hour bigint NOT NULL,
  event_id text NOT NULL,
  PRIMARY KEY (organisation_id, sku));

CREATE TABLE budgets (
  project_id text PRIMARY KEY,
  monthly_micro_dollars bigint NOT NULL);

CREATE TABLE usage (
  usage_id text PRIMARY KEY,
  number bigint NOT NULL,
  job_id text NOT NULL,
  run int NOT NULL,
  project_id text NOT NULL,
  node_id text NOT NULL,
  started_at_us bigint NOT NULL,
  ended_at_us bigint NOT NULL,
  month text NOT NULL,
  micro_dollars bigint NOT NULL,
  recorded bytea NOT NULL,
  event_id text NOT NULL);
CREATE INDEX usage_by_job ON usage (job_id);
CREATE INDEX usage_by_month ON usage (project_id, month);
CREATE INDEX usage_by_number ON usage (number);
