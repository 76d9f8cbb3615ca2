-- Read models of checkpoint. Times are in microseconds since 1970.
CREATE TABLE checkpoints (
  checkpoint_id text PRIMARY KEY,
  project_id text NOT NULL,
  job_id text NOT NULL,
  number int NOT NULL,
  status int NOT NULL,
  protected boolean NOT NULL,
  held_until_us bigint NOT NULL,
  problem text NOT NULL,
  recorded bytea NOT NULL,
  recorded_at_us bigint NOT NULL,
  changed_at_us bigint NOT NULL,
  event_id text NOT NULL);
CREATE INDEX checkpoints_by_job ON checkpoints (job_id);
CREATE INDEX checkpoints_by_time ON checkpoints (recorded_at_us, checkpoint_id);

CREATE TABLE checkpoint_metrics (
  checkpoint_id text NOT NULL,
  project_id text NOT NULL,
  job_id text NOT NULL,
  name text NOT NULL,
  value double precision NOT NULL,
  PRIMARY KEY (checkpoint_id, name));
CREATE INDEX metrics_by_job ON checkpoint_metrics (job_id, name);

CREATE TABLE retentions (
  project_id text PRIMARY KEY,
  checkpoints_per_job_max int NOT NULL,
  best_metric text NOT NULL,
  best_order int NOT NULL);
