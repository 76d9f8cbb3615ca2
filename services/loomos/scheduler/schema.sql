-- Read models of the scheduler; changed = rebuilt from the log.

CREATE TABLE jobs (
    job_id text PRIMARY KEY,
    project_id text NOT NULL,
    cluster_id text NOT NULL,
    name text NOT NULL,
    status int NOT NULL,
    spec bytea NOT NULL,
    priority int NOT NULL,
    group_id text NOT NULL,
    submitted_by text NOT NULL,
    submitted_at_us bigint NOT NULL,
    started_at_us bigint NOT NULL DEFAULT 0,
    finished_at_us bigint NOT NULL DEFAULT 0,
    run int NOT NULL DEFAULT 0,
    allocation_id text NOT NULL DEFAULT '',
    node_id text NOT NULL DEFAULT '',
    reason int NOT NULL DEFAULT 0,
    reason_detail text NOT NULL DEFAULT '',
    preemptions int NOT NULL DEFAULT 0,
    retries int NOT NULL DEFAULT 0,
    checkpoint bytea,
    epoch bigint NOT NULL DEFAULT 0,
    step bigint NOT NULL DEFAULT 0,
    progress_basis_points int NOT NULL DEFAULT 0,
    result bytea,
    isolation text NOT NULL DEFAULT '',
    version bigint NOT NULL,
    correlation_id text NOT NULL
);
CREATE INDEX jobs_waiting ON jobs (priority DESC, submitted_at_us, job_id)
    WHERE status IN (1, 2, 8, 12);
CREATE INDEX jobs_group ON jobs (group_id) WHERE status IN (1, 2, 8, 12);
CREATE INDEX jobs_project ON jobs (project_id, submitted_at_us DESC, job_id);

CREATE TABLE job_metrics (
    job_id text NOT NULL,
    name text NOT NULL,
    project_id text NOT NULL,
    value double precision NOT NULL,
    epoch bigint NOT NULL,
    step bigint NOT NULL,
    PRIMARY KEY (job_id, name)
);

CREATE TABLE job_events (
    job_id text NOT NULL,
    version bigint NOT NULL,
    project_id text NOT NULL,
    event_id text NOT NULL,
    event_type text NOT NULL,
    causation_id text NOT NULL,
    at_us bigint NOT NULL,
    status int NOT NULL,
    text text NOT NULL,
    other_job_id text NOT NULL DEFAULT '',
    round_id text NOT NULL DEFAULT '',
    update bytea NOT NULL,
    log_partition int NOT NULL,
    log_offset bigint NOT NULL,
    PRIMARY KEY (job_id, version)
);

CREATE TABLE rounds (
    round_id text PRIMARY KEY,
    cluster_id text NOT NULL,
    event_id text NOT NULL,
    at_us bigint NOT NULL,
    policy text NOT NULL,
    jobs_placed int NOT NULL,
    jobs_preempted int NOT NULL,
    jobs_waiting bigint NOT NULL
);

CREATE TABLE group_reasons (
    group_id text PRIMARY KEY,
    cluster_id text NOT NULL,
    reason int NOT NULL,
    detail text NOT NULL,
    blocking_job_ids text[] NOT NULL,
    event_id text NOT NULL,
    causation_id text NOT NULL,
    round_id text NOT NULL,
    at_us bigint NOT NULL
);

CREATE TABLE dry_runs (
    dry_run_id text PRIMARY KEY,
    project_id text NOT NULL,
    at_us bigint NOT NULL,
    answer bytea NOT NULL
);
